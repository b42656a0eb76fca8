# Table 3 of the paper: MNIST from the digits 0-4 to 5-9 at rank 1, nine methods, 50 epochs each.
fedrac -m experiment=transfer data.path="$MNIST" method=fedavg 'adapt.full=["*.bias"]' rounds=1 local.epochs=50 'seed=range(5)' sweep.dir="$RUNS/table3/full"
fedrac -m experiment=transfer data.path="$MNIST" method=fedavg_lora,asymm_lora method.side=left,right rounds=1 local.epochs=50 'seed=range(5)' sweep.dir="$RUNS/table3/once"
fedrac -m experiment=transfer data.path="$MNIST" method=fed_cola,fed_rac_lora method.side=left,right 'seed=range(5)' sweep.dir="$RUNS/table3/chain"
