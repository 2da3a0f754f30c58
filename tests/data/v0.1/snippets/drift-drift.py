import mechdiff

run = mechdiff.Run(
    "drift",
    pair="demo-cultural",
    domain="cognitive",
    limit=8,
    streams=("mlp_out",),
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query('layer == 12').squeeze()
print(line["cka_debiased"], line["low"], line["high"])
