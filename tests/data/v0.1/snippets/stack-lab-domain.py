import mechdiff

prompts = mechdiff.keep_prompts([
    mechdiff.Prompt("A lab technician wants 600 ml of 40% acid but only has bottles of 25% and 50%. How many millilitres from each bottle should be mixed?", "two-acids-target"),
])
run = mechdiff.Run(
    "stack",
    pair="demo-cognitive",
    domain="cognitive",
    prompts=prompts,
    controls=("self",),
    stack="layer=24 stream=resid_post map=ridge rank=8 complement=own",
)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query("stack == 'layer=24 stream=resid_post map=ridge rank=8 complement=own' and control == 'none'").squeeze()
print(line["mean"], line["low"], line["high"])
