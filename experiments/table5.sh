# Table 5 of the paper: as Table 3 (left sketch, which has the runs of one epoch a block), 50 epochs in all or next to it.
for block in '10 5' '5 10' '2 25' '4 12' '3 17'; do
  set -- $block
  fedrac -m experiment=transfer data.path="$MNIST" 'seed=range(5)' method=fed_rac_lora,fed_cola method.side=left local.epochs=$1 rounds=$2 evaluate.every=$2 sweep.dir="$RUNS/table5/$1"
done
