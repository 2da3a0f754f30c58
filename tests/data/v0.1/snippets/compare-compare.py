import mechdiff

verdict = mechdiff.compare_sweeps(
    "demo-cognitive@cultural",
    "demo-cultural@cultural",
    direction="tuned-to-base",
    depth=0.8,
)
print(verdict[['quantity', 'a', 'b', 'difference']].to_string())
