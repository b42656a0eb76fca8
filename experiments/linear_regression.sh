# Figure 2 of the paper: linear regression, ranks 1, 2, 5 and 10 of 10, at the step 1/L of theory.
STEPS=$(fedrac theory --steps experiment=linear_regression)
fedrac -m experiment=linear_regression $STEPS 'seed=range(5)' method.side=left,right rank=1 rounds=1100 sweep.dir="$RUNS/linear_regression/1"
fedrac -m experiment=linear_regression $STEPS 'seed=range(5)' method.side=left,right rank=2 rounds=550 sweep.dir="$RUNS/linear_regression/2"
fedrac -m experiment=linear_regression $STEPS 'seed=range(5)' method.side=left,right rank=5 rounds=220 sweep.dir="$RUNS/linear_regression/5"
fedrac -m experiment=linear_regression $STEPS 'seed=range(5)' method.side=left,right rank=10 rounds=150 sweep.dir="$RUNS/linear_regression/10"
fedrac -m experiment=linear_regression $STEPS 'seed=range(5)' method=fedavg rounds=150 sweep.dir="$RUNS/linear_regression/full"
