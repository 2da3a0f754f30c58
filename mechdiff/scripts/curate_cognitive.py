from mechdiff.scripts import forward

forward("--recipe", "math-500")
