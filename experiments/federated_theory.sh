# The federated theorem on least squares: every step size is a share of the largest admissible one.
for share in 1 0.5 0.25 0.125; do # drift: all clients take part, eta stays, gamma falls
  fedrac -m experiment=federated_theory $(fedrac theory --steps --gamma $share experiment=federated_theory) 'seed=range(3)' rounds=300 sweep.dir="$RUNS/federated_theory/gamma/$share"
done
STEPS=$(fedrac theory --steps --gamma 0.1 experiment=federated_theory cohort.size=1) # admissible for every cohort
fedrac -m experiment=federated_theory $STEPS 'seed=range(3)' cohort.size=1,2,5,10,15,19 rounds=1000 sweep.dir="$RUNS/federated_theory/cohort"
for share in 1 0.5 0.25; do # sampling: a cohort of 5, eta falls
  fedrac -m experiment=federated_theory $(fedrac theory --steps --gamma 0.1 --eta $share experiment=federated_theory cohort.size=5) cohort.size=5 'seed=range(3)' rounds=800 sweep.dir="$RUNS/federated_theory/eta/$share"
done
STEPS=$(fedrac theory --steps --gamma 0.1 experiment=federated_theory cohort.size=5)
fedrac -m experiment=federated_theory $STEPS cohort.size=5 'seed=range(3)' rank=1,2,3,6 rounds=800 sweep.dir="$RUNS/federated_theory/rank"
STEPS=$(fedrac theory --steps experiment=federated_theory)
fedrac -m experiment=federated_theory $STEPS 'seed=range(3)' rank=1,3,6 rounds=150 sweep.dir="$RUNS/federated_theory/contraction"
