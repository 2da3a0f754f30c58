from mechdiff.scripts import forward

forward("positions")
