import mechdiff

run = mechdiff.Run(
    "heads",
    pair="demo-cognitive",
    domain="cultural",
    limit=8,
    layers=(18,),
    direction="tuned-to-base",
    head_sets="all",
    controls=("self",),
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
print(lines.to_string())
