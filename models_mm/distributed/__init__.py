"""The processes of a job: whether they are alive, what they tell each other, how they end.

What PyTorch does by itself is left to it: torchrun ends and restarts the ranks of its machine, and
a collective that waits too long fails after the time limit of the process group. It is not enough:
such an error says neither which rank was lost nor what that rank was doing, NCCL's flight recorder
leaves files that have to be analysed, and gloo has none; Slurm's ``srun`` and ``mpirun`` have no
torchrun; data workers are nobody's ranks.
"""
