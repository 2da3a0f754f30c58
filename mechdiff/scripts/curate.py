import runpy

runpy.run_module("mechdiff.cli.curate", run_name="__main__", alter_sys=True)
