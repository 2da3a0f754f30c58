"""The same work in other libraries, beside mechdiff, in one run. Not part of the package, nor of its continuous tests."""
