# Table 5 of the paper: as Table 3 (left sketch), with 1 to 10 epochs a block and 50 epochs in all, or next to it.
for block in '1 50' '2 25' '3 17' '4 12' '5 10' '10 5'; do
  set -- $block
  fedrac -m experiment=transfer data.path="$MNIST" 'seed=range(5)' method=fed_rac_lora,fed_cola method.side=left local.epochs=$1 rounds=$2 evaluate.every=$2 sweep.dir="$RUNS/table5/$1"
done
