import mechdiff

run = mechdiff.Run(
    "patch",
    pair="demo-cultural",
    domain="cultural",
    limit=8,
    streams=("heads",),
    map="ridge",
    controls=("self",),
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query("layer == 27 and control == 'none'").squeeze()
print(line["mean"], line["low"], line["high"])
