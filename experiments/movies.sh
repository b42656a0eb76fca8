# The movie reviews: MiniLM adapted by clients that are movies. A run has one thread; the runs of full FedAvg need 4 GB.
DATA="experiment=movies data.path=$MOVIES model.checkpoint=$MINILM"
RUN="$DATA runtime.threads=1 checkpoint.every=1000 checkpoint.keep=1 checkpoint.best=null"
if [ ! -s "$RUNS/movies/tfidf.txt" ]; then
  python -m experiments.tfidf "$MOVIES" >"$RUNS/movies/tfidf.part" &&
    mv "$RUNS/movies/tfidf.part" "$RUNS/movies/tfidf.txt"
fi
# Every method's learning rate is chosen on a fifth of the training movies, in half the rounds and on shorter texts, with a
# seed that is not used again.
TRIAL="seed=100 evaluate.validation=0.2 rounds=6 data.max_length=32"
for trial in 'fed_rac_lora local.lr=0.0015,0.005,0.015' 'fedavg_lora local.lr=0.0015,0.005,0.015' \
  'asymm_lora method.side=right local.lr=0.0015,0.005,0.015' 'fedavg local.lr=0.0005,0.0015,0.005'; do
  set -- $trial
  method=$1 && shift
  fedrac -m $RUN "method=$method" "$@" $TRIAL sweep.dir="$RUNS/movies/grid/$method"
  chosen=$(python -m experiments.choose "$RUNS/movies/grid/$method" | cut -d ' ' -f 2-)
  fedrac -m $RUN $chosen seed=1,2,3 sweep.dir="$RUNS/movies/rounds/$method"
  case $method in # equal bytes: FedAvg-LoRA uploads two factors, FedAvg in one round a third more than the others in all
    fed_rac_lora) fedrac -m $RUN $chosen seed=1,2,3 rounds=24 sweep.dir="$RUNS/movies/longer/$method" ;;
    fedavg_lora) fedrac -m $RUN $chosen seed=1,2,3 rounds=6 sweep.dir="$RUNS/movies/bytes/$method" ;;
    fedavg) fedrac -m $RUN $chosen seed=1,2,3 rounds=1 sweep.dir="$RUNS/movies/bytes/$method" ;;
  esac
done
# As few numbers as possible: two-sided sketches of (8, 64) and (8, 128), and FedAvg-LoRA at ranks 4 and 8.
[ -s "$RUNS/movies/plots.csv" ] || python -m experiments.plots "$MOVIES" "$RUNS/movies/plots.csv"
TWO="adapt.basis=inputs adapt.rslora=true sketch.law=scaled_haar ++basis.data.path=$RUNS/movies/plots.csv
  ++basis.data.classes=[plot]"
for kind in 'two_sided rank=8 adapt.columns=64' 'fedavg_lora rank=4' 'two_sided rank=8 adapt.columns=128' 'fedavg_lora rank=8'; do
  set -- $kind
  method=$1 && shift
  [ $method = two_sided ] && SIZE="$* $TWO" || SIZE="$*"
  folder=${method}_$(echo "$*" | tr ' =' __) # a value with "=" would have to be quoted
  fedrac -m $RUN method=$method $SIZE local.lr=0.0015,0.005,0.015 $TRIAL sweep.dir="$RUNS/movies/few_grid/$folder"
  chosen=$(python -m experiments.choose "$RUNS/movies/few_grid/$folder" | cut -d ' ' -f 2-)
  fedrac -m $RUN $chosen $SIZE evaluate.every=2 evaluate.on_clients=32 upload.bits=null,4 seed=1,2,3,4,5 \
    sweep.dir="$RUNS/movies/few/$folder"
  case $SIZE in # twice the rounds, for the accuracy that FedAvg-LoRA has at rank 32
    *columns=128*) fedrac -m $RUN $chosen $SIZE rounds=24 evaluate.every=4 seed=1,2,3,4,5 sweep.dir="$RUNS/movies/few/$folder-24" ;;
  esac
done
