import mechdiff

run = mechdiff.Run("weights", pair="demo-cognitive", domain="cognitive")
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
line = lines.query("layer == 20 and module == 'mlp.down_proj'").squeeze()
print(line["relative_norm"])
