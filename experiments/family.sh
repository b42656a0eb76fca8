# The whole family side by side: experiment=family on the full MNIST, and experiment=movies_family if MOVIES and MINILM are there.
# Each method has rates of its own, which lie in conf/rates.
RUN="experiment=family data.path=$MNIST"
TO="$RUNS/family"
# Eight trials for each method, on a fifth of the training images, in two divisions, with a seed that is not used again:
# four learning rates, and two values of the parameter that the method alone has, or else of the batch size.
TRIAL="partition.alpha=0.5,0.1 partition.min_size=0 evaluate.validation=0.2 evaluate.every=100 evaluate.on_clients=false seed=100"
FACTORS=local.lr=0.005,0.01,0.02,0.04 MATRICES=local.lr=0.002,0.004,0.008,0.016
trial() { # METHOD KEY=VALUE...
  method=$1 && shift
  fedrac -m $RUN $TRIAL method=$method "$@" sweep.dir="$TO/grid/$method"
}
for method in fed_rac_lora two_sided nested_ranks asymm_lora fed_cola flora fedex_lora; do
  trial $method $FACTORS local.batch_size=10,32
done
# Where the best was at the edge of these rates, all four moved on by one.
for method in fedavg_lora rolora hetlora; do
  trial $method local.lr=0.01,0.02,0.04,0.08 local.batch_size=10,32
done
trial flexlora local.lr=0.0025,0.005,0.01,0.02 local.batch_size=10,32
trial flasc local.lr=0.0025,0.005,0.01,0.02 local.batch_size=10,32
trial lora_fair local.lr=0.01,0.02,0.04,0.08 method.penalty=0.01,0.1
trial fed_sb $FACTORS adapt.basis=weights,inputs
trial fedsa_lora $FACTORS local.batch_size=10,32 evaluate.on_clients=all # it is their own models that count
trial fedavg $MATRICES local.batch_size=10,32
trial fedprox $MATRICES method.prox=0.01,0.1
trial feddyn $MATRICES method.prox=0.01,0.1
trial scaffold local.lr=0.025,0.05,0.1,0.2 local.batch_size=10,32
trial fedavgm $MATRICES method.optimizer.lr=0.3,1.0
trial fedadam $MATRICES method.optimizer.lr=0.003,0.01
trial fedyogi $MATRICES method.optimizer.lr=0.003,0.01
trial qffl $MATRICES method.step_size=0.1,1.0
METHODS=$(ls conf/rates/family_*.yaml | sed 's/.*family_//; s/.yaml//' | paste -sd ,)
for division in 0.5 0.1 iid; do
  [ $division = iid ] && DIVIDE=partition=iid || DIVIDE="partition.alpha=$division partition.min_size=0"
  fedrac -m $RUN $DIVIDE method=$METHODS seed=0,1,2,3,4 sweep.dir="$TO/mnist/$division"
done
[ -n "$MOVIES" ] && [ -n "$MINILM" ] || return 0
RUN="experiment=movies_family data.path=$MOVIES model.checkpoint=$MINILM"
[ -s "$TO/plots.csv" ] || python -m experiments.plots "$MOVIES" "$TO/plots.csv"
for method in two_sided fedavg_lora asymm_lora fed_rac_lora rolora flora flexlora lora_fair fedavg; do
  [ $method = two_sided ] && BASIS="basis.data.path=$TO/plots.csv" || BASIS=
  [ $method = fedavg ] && RATES=local.lr=0.0005,0.0015,0.005 || RATES=local.lr=0.0015,0.005,0.015
  fedrac -m $RUN method=$method $BASIS $RATES seed=100 evaluate.validation=0.2 evaluate.on_clients=false \
    rounds=6 data.max_length=32 sweep.dir="$TO/movies_grid/$method"
  fedrac -m $RUN method=$method $BASIS seed=1,2,3,4,5 sweep.dir="$TO/movies/runs/$method"
done
