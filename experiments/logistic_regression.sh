# Figure 3 of the paper: logistic regression, ranks 1, 2, 5 and 10 of 10, at the step 1/L of theory.
STEPS=$(fedrac theory --steps experiment=logistic_regression)
fedrac -m experiment=logistic_regression $STEPS 'seed=range(5)' rank=1 rounds=2500 sweep.dir="$RUNS/logistic_regression/1"
fedrac -m experiment=logistic_regression $STEPS 'seed=range(5)' rank=2 rounds=1250 sweep.dir="$RUNS/logistic_regression/2"
fedrac -m experiment=logistic_regression $STEPS 'seed=range(5)' rank=5 rounds=500 sweep.dir="$RUNS/logistic_regression/5"
fedrac -m experiment=logistic_regression $STEPS 'seed=range(5)' rank=10 rounds=250 sweep.dir="$RUNS/logistic_regression/10"
fedrac -m experiment=logistic_regression $STEPS 'seed=range(5)' method=fedavg rounds=250 sweep.dir="$RUNS/logistic_regression/full"
