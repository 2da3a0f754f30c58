import mechdiff

run = mechdiff.Run(
    "heads",
    pair="demo-cultural",
    domain="cultural",
    limit=8,
    layers=(21,),
    head_sets="1,3",
    blend=0.5,
    controls=("self",),
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query("heads == '1-3' and control == 'none'").squeeze()
print(line["mean"], line["low"], line["high"])
