import runpy

runpy.run_module("mechdiff.cli.curate_cultural", run_name="__main__", alter_sys=True)
