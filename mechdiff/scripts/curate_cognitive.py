import runpy

runpy.run_module("mechdiff.cli.curate_cognitive", run_name="__main__", alter_sys=True)
