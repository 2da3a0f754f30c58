from mechdiff.scripts import forward

forward("--recipe", "kk-culture")
