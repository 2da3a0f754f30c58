import mechdiff

prompts = mechdiff.keep_prompts([
    mechdiff.Prompt("Is it polite to arrive late to a dinner in Spain?", "manners"),
    mechdiff.Prompt("Is it polite to finish all of the food in Japan?", "manners"),
    mechdiff.Prompt("What do people bring to a wedding in India?", "customs"),
    mechdiff.Prompt("What is 3 + 4?", "sums", "7", ()),
])
run = mechdiff.Run(
    "stack",
    pair="demo-cultural",
    domain="cultural",
    prompts=prompts,
    direction="tuned-to-base",
    controls=("self",),
    back=1,
    horizon=4,
    stack="layer=20 stream=mlp_out; layer=26 stream=heads heads=2,5 blend=0.5",
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query("stack == 'layer=20 stream=mlp_out; layer=26 stream=heads heads=2,5 blend=0.5' and control == 'none'").squeeze()
print(line["mean"], line["low"], line["high"])
