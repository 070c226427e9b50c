"""Results on disk: every stage is computed once, and checked whenever it is read.

**Layout.** A store is a folder with three subfolders. ``stages/<name>-<first 16 hex digits of
the key>/`` is a finished stage: ``stage.json`` (its config, small results, where and when it was
computed, the sha256 of every file) and ``*.safetensors``. ``work/<the same name>/`` holds the last
two checkpoints of a stage in progress, ``locks/<the same name>.lock`` its lock. Damaged files and
folders are kept beside their place as ``*.corrupt``; names that begin with a dot are unfinished and
never read.

**Atomic.** Every file and every stage's folder is written beside its place, synced, and moved
there by one rename. A process that is killed at any instant, and a disk that is full, leave the
old file or the new one, a whole stage or none. One process at a time computes a stage: it holds
the stage's lock, which the system frees when the process dies, and the next one goes on from the
last checkpoint.

**Verified.** Every file of a stage is checked when the stage is found, its tensors once more on the
very bytes that are loaded. A checkpoint is checked before training resumes from it; if it fails,
the one before it is used. What fails is moved aside with a warning and computed again, or refused
by name. Every tensor file and ``stage.json`` carries a sha256 of itself, so copies can be checked.
Pickles are never opened (`lotperm.store.convert` says how foreign weights come in).
"""
