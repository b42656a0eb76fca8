# Table 3 of the paper: MNIST from the digits 0-4 to 5-9 at rank 1, nine methods, 50 epochs each.
fedrac -m experiment=transfer data.path="$MNIST" 'seed=range(5)' method=fed_rac_lora,fed_cola method.side=left,right sweep.dir="$RUNS/table3/chain"
fedrac -m experiment=transfer data.path="$MNIST" 'seed=range(5)' method=asymm_lora,fedavg_lora method.side=left,right rounds=1 local.epochs=50 sweep.dir="$RUNS/table3/once"
fedrac -m experiment=transfer data.path="$MNIST" 'seed=range(5)' method=fedavg 'adapt.full=["*.bias"]' rounds=1 local.epochs=50 sweep.dir="$RUNS/table3/full"
# An earlier stop: the chained methods' curves have it, the others need runs of their own.
fedrac -m experiment=transfer data.path="$MNIST" 'seed=range(5)' method=asymm_lora,fedavg_lora method.side=left,right rounds=1 local.epochs=25 sweep.dir="$RUNS/table3/half"
# AsymmLoRA on models that were pre-trained for fewer epochs: the paper does not say for how many.
fedrac -m experiment=transfer data.path="$MNIST" 'seed=range(5)' method=asymm_lora method.side=left rounds=1 local.epochs=50 pretrain.epochs=5,20 sweep.dir="$RUNS/table3/pretrain"
# AdamW's moments kept from block to block, as in the authors' code; the library starts them anew.
[ -s "$RUNS/table3/moments.txt" ] || { python -m experiments.moments "$MNIST" >"$RUNS/table3/moments.part" && mv "$RUNS/table3/moments.part" "$RUNS/table3/moments.txt"; }
