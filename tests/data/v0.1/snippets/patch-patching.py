import mechdiff

run = mechdiff.Run(
    "patch",
    pair="demo-cultural",
    domain="cultural",
    limit=8,
    streams=("attn_out",),
    direction="tuned-to-base",
    controls=("self",),
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query("layer == 24 and control == 'none'").squeeze()
print(line["mean"], line["low"], line["high"])
