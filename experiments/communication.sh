# Accuracy against bytes on the full MNIST: experiment=mnist with each method's own rates and rounds (conf/rates).
RUN="experiment=mnist data.path=$MNIST runtime.threads=1 checkpoint.every=1000 checkpoint.best=null"
TO="$RUNS/communication"
sweep() { # DIR METHOD KEY=VALUE...: "helped" is fedavg with every help, "rank4" the left sketch at that rank
  folder=$1 method=$2 && shift 2
  case $method in
    helped) set -- method=fedavg "method.name=FedAvg with every help" local.epochs=2 local.logit_adjustment=1 \
      server.eta=1.5 server.average=8 "$@" ;;
    rank4) set -- method=fed_rac_lora "method.name=Fed-RAC-LoRA at rank 4" rank=4 sketch.law=haar "$@" ;;
    *) set -- "method=$method" "$@" ;;
  esac
  fedrac -m $RUN "$@" sweep.dir="$TO/$folder/$method"
}
# Eight trials for each method, on a fifth of the training images, in two divisions with two seeds that are not used again.
# What was best is in conf/rates, for "helped" and "rank4" below; where larger batches came within a tenth of a point, they
# were taken. Where the best was at the edge of the rates, all four moved on.
for method in fed_rac_lora rank4 fedavg helped two_sided; do
  case $method in
    fedavg | helped) RATES=0.001,0.002,0.004,0.008 ;;
    rank4) RATES=0.01,0.02,0.04,0.08 ;;
    *) RATES=0.0025,0.005,0.01,0.02 ;;
  esac
  sweep grid $method local.lr=$RATES local.batch_size=10,64 partition.alpha=0.5,0.1 partition.min_size=0 \
    evaluate.validation=0.2 evaluate.every=200 seed=100,101
done
for division in 0.5 0.1 iid; do
  [ $division = iid ] && DIVIDE=partition=iid || DIVIDE="partition.alpha=$division partition.min_size=0"
  FINAL="$DIVIDE evaluate.every=5 seed=${SEEDS:-0,1,2,3,4}"
  sweep $division two_sided $FINAL upload.bits=null,4,1
  sweep $division fedavg $FINAL
  sweep $division fed_rac_lora $FINAL
  sweep $division rank4 $FINAL local.lr=0.04 local.batch_size=10
  sweep $division helped $FINAL local.lr=0.004 local.batch_size=64 upload.bits=null,8,4,1
done
