# Figure 1 of the paper: section 3's quadratic. 1/L = 0.1; LoRA and COLA make ten (or a hundred) steps a block.
fedrac -m experiment=counterexample 'seed=range(20)' method=fed_rac_lora,asymm_lora sweep.dir="$RUNS/counterexample/projected"
fedrac -m experiment=counterexample 'seed=range(20)' method=fedavg_lora,fed_cola local.precondition=false local.epochs=10 local.lr=0.1,0.01,0.001 rounds=300 sweep.dir="$RUNS/counterexample/both"
fedrac -m experiment=counterexample 'seed=range(20)' method=fed_cola local.precondition=false local.epochs=100 local.lr=0.1,0.001 rounds=30 evaluate.every=1 sweep.dir="$RUNS/counterexample/long"
