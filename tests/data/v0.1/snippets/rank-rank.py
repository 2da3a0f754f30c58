import mechdiff

run = mechdiff.Run(
    "rank",
    pair="demo-cultural",
    domain="cultural",
    limit=16,
    layers=(26,),
    map="procrustes",
    ranks=("16",),
    complement=("own",),
    alpha=("0.8",),
    controls=("self",),
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query("control == 'none'").squeeze()
print(line["mean"], line["low"], line["high"])
