import mechdiff

run = mechdiff.Run(
    "transport",
    pair="demo-cognitive",
    domain="cognitive",
    limit=8,
    layers=(20,),
    streams=("mlp_out",),
    direction="tuned-to-base",
    map="ridge",
    alpha=("0.5",),
    controls=("self",),
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query("control == 'none'").squeeze()
print(line["mean"], line["low"], line["high"])
