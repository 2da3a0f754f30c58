import runpy

runpy.run_module("mechdiff.cli.fill_prompts", run_name="__main__", alter_sys=True)
