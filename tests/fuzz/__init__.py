"""The project's fuzzer: damaged and hostile files and arguments, and what becomes of each.

``python -m tests.fuzz`` damages copies of a tiny world, policy, dataset, training, PPO run and of what environments are
given, one mutation at a time, in a process of its own that has no network and may write nowhere else, and gives each
case a verdict (:mod:`tests.fuzz.verdicts`).

What is not generated, for nothing can tell it from another valid input:

- Another finite weight, feature, action, threshold, scale or statistic in its range, and another whole number in its
  range where no weight has its shape (solver steps, frames a second, a planner's candidates and horizon): that is
  another valid world, policy or dataset. The same goes for names of weights' dtypes that round them (float16).
- Flipped bytes in the bodies of tensors, tables and videos that still read as finite numbers or as pictures: these
  formats have no checksums. Bytes are flipped in JSON files, in the headers of safetensors files, and in parquet files
  where the result reads no longer.
- Large sizes in a user's own arguments (``num_envs=10**9``): memory is the user's to spend.
- ``hf://owner/name`` as an argument: it asks for the network by name.
"""
