# Accuracy against bytes on the full MNIST: experiment=mnist with each method's own rates and rounds (conf/rates), which
# were chosen on validation data (the grids), with a seed that is not used again, at Dirichlet 0.5.
RUN="experiment=mnist data.path=$MNIST runtime.threads=1 checkpoint.every=1000 checkpoint.best=null"
TRIAL="$RUN evaluate.validation=0.2 evaluate.every=200 seed=100"
TO="$RUNS/communication"
fedrac -m $TRIAL method=two_sided local.lr=0.005,0.01,0.02,0.04 sweep.dir="$TO/grid/two_sided"
fedrac -m $TRIAL method=fed_rac_lora local.lr=0.0015,0.003,0.006,0.012 sweep.dir="$TO/grid/fed_rac_lora"
fedrac -m $TRIAL method=fedavg local.lr=0.001,0.002,0.004,0.008 sweep.dir="$TO/grid/fedavg"
for division in 0.5 0.1 iid; do
  [ $division = iid ] && DIVIDE=partition=iid || DIVIDE="partition.alpha=$division partition.min_size=0"
  FINAL="$RUN $DIVIDE evaluate.every=5 seed=${SEEDS:-0,1,2,3,4}"
  fedrac -m $FINAL method=two_sided upload.bits=null,4,1 sweep.dir="$TO/$division/two_sided"
  fedrac -m $FINAL method=fed_rac_lora sweep.dir="$TO/$division/fed_rac_lora"
  fedrac -m $FINAL method=fedavg upload.bits=null,4,1 sweep.dir="$TO/$division/fedavg"
done
