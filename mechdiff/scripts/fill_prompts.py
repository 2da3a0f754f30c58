from mechdiff.scripts import forward

forward("fill")
