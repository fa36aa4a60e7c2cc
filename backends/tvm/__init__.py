"""Lower a graph to Apache TVM: emit Relax, fuse, schedule every kernel, build, run.

`emit/` spells a graph in Relax, `schedules/` holds the CPU schedules, `pipeline.build` ties them.
Nothing here imports tvm before `available.require` has looked at what is installed.
"""
