import mechdiff

run = mechdiff.Run("behaviour", pair="demo-cognitive", domain="cultural", limit=8)
table = mechdiff.run(run)
lines = mechdiff.summarise(table, run)
print(lines.to_string())
