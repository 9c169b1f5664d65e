#!/usr/bin/env bash
# From a commit to a public score: builds the wheel, sends it, runs a notebook on Kaggle, checks what it wrote, submits.
#
# What Kaggle's client answers is read, never only its exit status: it is 0 on most failures. Nothing is repeated that
# may have been accepted. The state of a run is in kaggle_runs/, so that --resume goes on where one was stopped. All
# that can be tested without a server is in birdkit/sending/.
set -Eeuo pipefail
((BASH_VERSINFO[0] >= 5)) || { echo "kaggle_submit: bash 5 is needed, this is $BASH_VERSION" >&2 && exit 3; }
umask 022
unset VERBOSE VERBOSE_OUTPUT # with them the client prints the headers it sends, and the token in them

readonly OK=0 USAGE=2 PREFLIGHT=3 UPLOAD=4 PUSH=5 KERNEL=6 OUTPUT=7 SUBMIT=8 TIMED_OUT=9
readonly LAST_NOTEBOOK=04_ensemble_infer T4_X2=NvidiaTeslaT4
readonly NO_TOKEN="Kaggle does not know you: get a token at kaggle.com/settings/api (README.md)"
readonly WANTED='(^|/)((submission|excluded|rounds|history)\.csv|(run_manifest|audit)\.json|pseudo_labels.*\.html)$'

usage() {
    cat <<'TEXT'
./kaggle_submit.sh --competition SLUG --owner NAME --notebook NOTEBOOK [options]

  --competition SLUG   as in kaggle.com/competitions/SLUG, such as birdclef-2026
  --owner NAME         your name on Kaggle, as in kaggle.com/NAME
  --notebook NOTEBOOK  01_preprocess, 02_pseudolabel, 03_train_fold or 04_ensemble_infer; only 04 is submitted

what to run
  --set NAME=VALUE     a setting of the notebook's first cell, such as FOLD='[2, 3]'; may be repeated
  --kernel SLUG        the notebook's name on Kaggle (default: birdkit-03-train-fold and so on)
  --input OWNER/SLUG   another notebook's output to attach, instead of the default ones; may be repeated
  --dataset OWNER/SLUG a dataset to attach beside the wheels; may be repeated
  --weights WORK_DIR   send the checkpoints of a local work folder as a dataset, instead of attaching notebook 03
  --accelerator NAME   a machine of Kaggle's (default: NvidiaTeslaT4, which is two T4, for 03; else a CPU)
  --internet           lets 01 to 03 use it, such as for pretrained weights from the hub; 04 is scored without
  --wheels DIR         other wheels to send along, such as openvino's (default: wheels)
  --wheel-dataset SLUG, --weights-dataset SLUG   (default: birdkit-wheels, birdkit-weights)

how far, and how
  --wheel-only         send the wheels (and weights) and stop
  --no-submit          run and check the notebook, and do not submit
  --dry-run            print every command and every file's metadata; call and write nothing
  --resume             go on where the last run of this notebook was stopped
  --again              run and submit, even if the very same was submitted before or the last run is not done
  --older-inputs       run although the latest run of an attached notebook failed or is not done: the one before is read
  --allow-dirty        send changes that are not committed, too (but no files that git does not know)
  --message TEXT       in the submission's description
  --competition-dir DIR  the competition's files: `birdkit check` then checks the submission, where otherwise rows and
                       columns are compared with those of the sample submission that Kaggle has
  --timeout SECONDS    for each wait: datasets, the notebook, the score (default: 46800, 13 hours)
  --poll SECONDS       between looks, growing to six times as much (default: 10)

Environment: KAGGLE_COMPETITION and KAGGLE_OWNER instead of the first two options, KAGGLE_SUBMIT_RUNS for kaggle_runs/,
KAGGLE_SUBMIT_TRIES for how often a look is repeated while Kaggle is away, or for a submission whose answer was lost
(default: 10, some six minutes).

Exit status: 0 done, 1 a fault of this script, 2 usage, 3 not ready to start, 4 upload, 5 push, 6 the notebook failed,
7 its output is not valid, 8 submission, 9 out of time, 130 stopped by Ctrl-C, 143 stopped by kill (as for Ctrl-C:
what runs on Kaggle runs on, and --resume goes on with it).
TEXT
}

say() { printf '%s\n' "$*" >&2; }

die() {
    local status=$1
    shift
    say "kaggle_submit: $*"
    exit "$status"
}

# What needs more than bash: see birdkit/sending/.
ask() { python3 -m birdkit.sending "$@"; }

get() { ask get "$STATE" --key "$1"; }

put() { ask set "$STATE" --set "$@"; }

# Who answers a call: Kaggle's command, or, for what it cannot answer, birdkit/sending/ by Kaggle's library.
CLIENT=(kaggle)
readonly LIBRARY=(python3 -m birdkit.sending)

# The command that is about to run; only once while the same is looked at again and again.
show() {
    local line
    line="+$(printf ' %q' "${CLIENT[@]}" "$@")"
    [[ $line == "$SHOWN" ]] || say "$line"
    SHOWN=$line
}

# Run Kaggle's client. What it said is in ANSWER; FAILURE is "" where it exited 0, else what kind of failure it was.
call() {
    local status=0
    show "$@"
    ANSWER='' FAILURE=''
    ((DRY_RUN)) && return
    ANSWER=$("${CLIENT[@]}" "$@" 2>&1) || status=$?
    read_answer "$status"
}

# The same for what takes long: its progress is shown, too.
call_shown() {
    local status=0 log=$SCRATCH/client.log
    show "$@"
    ANSWER='' FAILURE=''
    ((DRY_RUN)) && return
    "${CLIENT[@]}" "$@" 2>&1 | ask mask | tee -i "$log" >&2 || status=$?
    ANSWER=$(<"$log")
    read_answer "$status"
}

# The client exits 0 when it is stopped by Ctrl-C. What it says is shown and kept, so that no secret may be in it.
read_answer() {
    local secret
    for secret in "${SECRETS[@]}"; do
        ANSWER=${ANSWER//"$secret"/(hidden)}
    done
    [[ $ANSWER != *"User cancelled operation"* ]] || stopped
    (($1 == 0)) || FAILURE=$(ask failure <<<"$ANSWER")
}

# Whether the last call failed for no fault of its own, and may succeed later.
away() { [[ $FAILURE == throttled || $FAILURE == refused || $FAILURE == server || $FAILURE == proxy ]]; }

# A call that changes nothing on Kaggle: again while it is throttled or away. Not for a wait, which lasts longer.
look() {
    local tries=0 PAUSE_MS=$POLL_MS # its own: who waits for something else goes on at their pace
    while :; do
        call "$@"
        away || return 0
        ((++tries < TRIES)) || return 0
        say "Kaggle is busy or away: $(last_line)"
        pace
    done
}

# What the client said went wrong, in a line.
last_line() { ask reason <<<"$ANSWER"; }

# Pauses that grow by half, to six times the first.
start_pace() { PAUSE_MS=$POLL_MS; }

pace() {
    local seconds
    printf -v seconds '%d.%03d' $((PAUSE_MS / 1000)) $((PAUSE_MS % 1000))
    sleep "$seconds"
    PAUSE_MS=$((PAUSE_MS * 3 / 2))
    ((PAUSE_MS <= 6 * POLL_MS)) || PAUSE_MS=$((6 * POLL_MS))
}

# Begin, and go on with, waiting for something: one line that is rewritten on a terminal; elsewhere one a minute, or
# when something has changed.
start_waiting() {
    WAIT_FOR=$1 WAIT_FROM=$SECONDS WAIT_SAID='' WAIT_SAID_AT=$SECONDS
    start_pace
}

keep_waiting() {
    local now=$1 passed=$((SECONDS - WAIT_FROM)) line
    printf -v line '%s: %s, %d:%02d:%02d' "$WAIT_FOR" "$now" $((passed / 3600)) $((passed / 60 % 60)) $((passed % 60))
    if [[ -t 2 ]]; then
        printf '\r\033[K%s' "$line" >&2
    elif [[ $now != "$WAIT_SAID" ]] || ((SECONDS - WAIT_SAID_AT >= 60)); then
        say "$line"
        WAIT_SAID=$now WAIT_SAID_AT=$SECONDS
    fi
    ((passed < TIMEOUT)) || die $TIMED_OUT "$WAIT_FOR: still $now after $TIMEOUT s; --resume goes on waiting"
    pace
}

# A call within a wait. An evening without network ends no wait for a notebook that runs on: it is one more state.
look_waiting() {
    while :; do
        call "$@"
        away || return 0
        keep_waiting "unknown, Kaggle is away ($FAILURE)"
    done
}

end_waiting() { [[ ! -t 2 ]] || printf '\n' >&2; }

stopped() {
    trap - INT TERM
    say "kaggle_submit: stopped; the same command with --resume goes on from here"
    exit "${1:-130}"
}

# Step 2.
parse() {
    COMPETITION=${KAGGLE_COMPETITION:-} OWNER=${KAGGLE_OWNER:-} NOTEBOOK='' KERNEL_SLUG='' MESSAGE='' WEIGHTS=''
    WHEELS=$ROOT/wheels WHEEL_DATASET=birdkit-wheels WEIGHTS_DATASET=birdkit-weights
    COMPETITION_DIR='' ACCELERATOR=default
    WHEEL_ONLY=0 NO_SUBMIT=0 DRY_RUN=0 RESUME=0 AGAIN=0 OLDER=0 ALLOW_DIRTY=0 INTERNET=0 TIMEOUT=46800 POLL=10
    SETTINGS=() KERNELS=() DATASETS=()
    while (($#)); do
        case $1 in
            --wheel-only) WHEEL_ONLY=1 ;;
            --no-submit) NO_SUBMIT=1 ;;
            --dry-run) DRY_RUN=1 ;;
            --resume) RESUME=1 ;;
            --again) AGAIN=1 ;;
            --older-inputs) OLDER=1 ;;
            --allow-dirty) ALLOW_DIRTY=1 ;;
            --internet) INTERNET=1 ;;
            -h | --help)
                usage
                exit $OK
                ;;
            --*)
                (($# > 1)) || die $USAGE "$1 wants a value, or is unknown; see --help"
                parse_value "$1" "$2"
                shift
                ;;
            *) die $USAGE "unknown argument $1; see --help" ;;
        esac
        shift
    done
    check_tools
    check_arguments
}

parse_value() {
    case $1 in
        --competition) COMPETITION=$2 ;;
        --owner) OWNER=$2 ;;
        --notebook) NOTEBOOK=$(basename "$2" .ipynb) ;;
        --set) SETTINGS+=("$2") ;;
        --kernel) KERNEL_SLUG=$2 ;;
        --input) KERNELS+=("$2") ;;
        --dataset) DATASETS+=("$2") ;;
        --weights) WEIGHTS=$(absolute "$2") ;;
        --accelerator) ACCELERATOR=$2 ;;
        --wheels) WHEELS=$(absolute "$2") ;;
        --wheel-dataset) WHEEL_DATASET=$2 ;;
        --weights-dataset) WEIGHTS_DATASET=$2 ;;
        --message) MESSAGE=$2 ;;
        --competition-dir) COMPETITION_DIR=$(absolute "$2") ;;
        --timeout) TIMEOUT=$2 ;;
        --poll) POLL=$2 ;;
        *) die $USAGE "unknown option $1; see --help" ;;
    esac
}

# Paths are meant from where the script was called.
absolute() {
    if [[ $1 == /* ]]; then echo "$1"; else echo "$CALLED_FROM/$1"; fi
}

check_arguments() {
    [[ $TIMEOUT =~ ^[1-9][0-9]*$ ]] || die $USAGE "--timeout $TIMEOUT must be a whole number of seconds"
    [[ $POLL =~ ^[0-9]+(\.[0-9]{1,3})?$ ]] || die $USAGE "--poll $POLL must be a number of seconds"
    POLL_MS=$(awk -v poll="$POLL" 'BEGIN { printf "%d", poll * 1000 }')
    ((POLL_MS > 0)) || die $USAGE "--poll $POLL would ask without a pause, and Kaggle throttles"
    TRIES=${KAGGLE_SUBMIT_TRIES:-10}
    [[ $OWNER =~ ^[A-Za-z0-9][A-Za-z0-9_-]*$ ]] || die $USAGE "--owner '$OWNER' must be your name on Kaggle"
    local name
    for name in "${KERNELS[@]}" "${DATASETS[@]}"; do
        [[ $name =~ ^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$ ]] || die $USAGE "'$name' must be OWNER/SLUG"
    done
    [[ -d $WHEELS || $WHEELS == "$ROOT/wheels" ]] || die $USAGE "--wheels: there is no folder $WHEELS"
    [[ -z $WEIGHTS ]] || WEIGHTS_FOUND=$(ask find-weights "$WEIGHTS") || die $USAGE "--weights: nothing to send"
    [[ -z $COMPETITION_DIR || -f $COMPETITION_DIR/sample_submission.csv ]] ||
        die $USAGE "--competition-dir: there is no $COMPETITION_DIR/sample_submission.csv"
    if ((WHEEL_ONLY)); then
        KERNEL_SLUG=wheels COMPETITION=none
        return
    fi
    [[ $COMPETITION =~ ^[a-z0-9-]+$ ]] || die $USAGE "--competition '$COMPETITION' must be a name such as birdclef-2026"
    [[ -n $NOTEBOOK && -f notebooks/$NOTEBOOK.ipynb ]] ||
        die $USAGE "--notebook '$NOTEBOOK' must be one of $(cd notebooks && printf '%s ' *.ipynb)"
    [[ -n $KERNEL_SLUG ]] || KERNEL_SLUG=birdkit-${NOTEBOOK//_/-}
    choose_defaults
}

# What the notebooks need of each other, and of Kaggle's machines, unless it was said.
choose_defaults() {
    local round=0 setting folds=0
    for setting in "${SETTINGS[@]}"; do
        [[ $setting != ROUND=* ]] || round=${setting#ROUND=}
        [[ $setting != FOLD=* ]] || folds=1
    done
    if ((${#KERNELS[@]} == 0)); then
        case $NOTEBOOK in
            02_*) KERNELS=("$OWNER/birdkit-01-preprocess") ;;&
            03_*) KERNELS=("$OWNER/birdkit-01-preprocess") ;;&
            02_* | 04_*)
                [[ -n $WEIGHTS || ($NOTEBOOK == 02_* && $round == 0) ]] || KERNELS+=("$OWNER/birdkit-03-train-fold")
                ;;
            03_*) [[ $round == 0 ]] || KERNELS+=("$OWNER/birdkit-02-pseudolabel") ;;
        esac
    fi
    SETTINGS+=("COMPETITION=$COMPETITION")
    if [[ $NOTEBOOK == 03_* ]] && ((!folds)); then SETTINGS+=("FOLD=[0, 1]"); fi
    if [[ $ACCELERATOR == default ]]; then
        ACCELERATOR=''
        [[ $NOTEBOOK != 03_* ]] || ACCELERATOR=$T4_X2
    fi
    [[ $NOTEBOOK != "$LAST_NOTEBOOK" || -z $ACCELERATOR ]] ||
        die $USAGE "--accelerator $ACCELERATOR: the competition scores notebook 04 on a CPU"
    [[ $NOTEBOOK != "$LAST_NOTEBOOK" ]] || ((!INTERNET)) || die $USAGE "--internet: notebook 04 is scored without"
    EXTRA_DATASETS=("${DATASETS[@]}")
    DATASETS=("$OWNER/$WHEEL_DATASET" "${DATASETS[@]}")
    [[ -z $WEIGHTS ]] || DATASETS+=("$OWNER/$WEIGHTS_DATASET")
}

# Step 1: one run of a notebook at a time, since Kaggle shows only its latest session.
lock() {
    ((DRY_RUN)) && return
    mkdir -p "$RUNS/$OWNER/kernels"
    exec 9>>"$RUNS/$OWNER/kernels/$KERNEL_SLUG.lock"
    flock -n 9 || die $PREFLIGHT "another kaggle_submit.sh is at work on $OWNER/$KERNEL_SLUG (it holds" \
        "$RUNS/$OWNER/kernels/$KERNEL_SLUG.lock); Ctrl-C there is safe, and --resume goes on with it"
}

open_state() {
    local arguments
    STATE=$RUNS/$OWNER/$COMPETITION/$KERNEL_SLUG/state.json
    arguments="$NOTEBOOK ${SETTINGS[*]-} ${KERNELS[*]-} ${DATASETS[*]-} $ACCELERATOR $WEIGHTS $INTERNET"
    if ((RESUME)); then
        [[ -f $STATE ]] || die $USAGE "nothing to resume: there is no $STATE"
        [[ $(get arguments) == "$arguments" ]] ||
            die $USAGE "the run to resume was started with other arguments: $(get arguments)"
        [[ -z $(get version) && $COMMIT != "$(get commit)" ]] &&
            die $USAGE "the run to resume was of commit $(get commit), this is $COMMIT; start without --resume"
        COMMIT=$(get commit)
        return
    fi
    DONE_CONTENT=$(get submitted_content) DONE_VERSION=$(get submitted_version) DONE_COMMIT=$(get submitted_commit)
    ((DRY_RUN)) && return
    ((AGAIN)) || refuse_a_second_session
    rm -f "$STATE"
    put "arguments=$arguments" "commit=$COMMIT" "submitted_content=$DONE_CONTENT" \
        "submitted_version=$DONE_VERSION" "submitted_commit=$DONE_COMMIT"
}

# The run before may not be done: a second session beside it would cost its hours twice, or a second submission.
refuse_a_second_session() {
    local fields version
    if [[ -n $(get submitting) && $(get accepted) != yes ]]; then
        die $PREFLIGHT "whether the last run's submission arrived is not known: --resume goes on with it," \
            "--again starts another"
    fi
    version=$(get version)
    [[ -n $version$(get stamp) && $(get checked) != yes ]] || return 0
    look kernels status "$OWNER/$KERNEL_SLUG"
    [[ $FAILURE != absent && $FAILURE != forbidden ]] || return 0 # that push never arrived
    if [[ -n $FAILURE ]] || ! fields=$(ask kernel-state <<<"$ANSWER"); then
        die $PREFLIGHT "whether the last run is still at work cannot be told ($(last_line)): --resume goes on with" \
            "it, --again starts another"
    fi
    [[ $fields != waiting* ]] || die $PREFLIGHT "$OWNER/$KERNEL_SLUG ${version:+version $version }is at work" \
        "(${fields#*$'\n'}): --resume goes on with it, --again starts another"
}

check_tools() {
    local name
    for name in git flock python3 kaggle tar; do
        command -v "$name" >/dev/null || die $PREFLIGHT "$name is not installed; see README.md, Kaggle in four steps"
    done
}

# Step 3.
preflight() {
    local dirty
    COMMIT=$(git rev-parse --short=10 HEAD) || die $PREFLIGHT "this is no git checkout, or has no commit"
    dirty=$(git status --porcelain --untracked-files=no)
    if [[ -n $dirty ]]; then
        ((ALLOW_DIRTY || DRY_RUN)) ||
            die $PREFLIGHT "there are changes that are not committed (--allow-dirty):"$'\n'"$dirty"
        ((ALLOW_DIRTY)) || say "changes that are not committed, which want --allow-dirty:"$'\n'"$dirty"
        COMMIT+=-dirty
    fi
    ((WHEEL_ONLY)) || ask metadata "notebooks/$NOTEBOOK.ipynb" "${KERNEL_ARGUMENTS[@]}" >/dev/null ||
        die $PREFLIGHT "the notebook cannot be sent"
    ((WHEEL_ONLY)) || INJECTED=$(ask injected "notebooks/$NOTEBOOK.ipynb" --set "${SETTINGS[@]}") ||
        die $USAGE "--set: not a setting of the notebook"
    ((!RESUME)) || return 0
    call --version
    [[ -z $FAILURE ]] || die $PREFLIGHT "kaggle does not start: $(last_line) (pip install kaggle six)"
    ((!WHEEL_ONLY)) || return 0
    look competitions submission-limits "$COMPETITION"
    case $FAILURE in
        '')
            ((DRY_RUN)) || read_limits
            ((DRY_RUN)) || say "submissions left today (none before you join): $LEFT"
            ;;
        credentials) die $PREFLIGHT "$NO_TOKEN" ;;
        forbidden)
            die $PREFLIGHT "join $COMPETITION first: kaggle.com/competitions/$COMPETITION/rules ($(last_line))"
            ;;
        absent) die $PREFLIGHT "there is no competition $COMPETITION ($(last_line))" ;;
        *) die $PREFLIGHT "Kaggle cannot be asked: $(last_line)" ;;
    esac
    look_at_inputs look
}

# What is attached, in ATTACHED: it must be there before a session is spent. By `look` or, in a wait, look_waiting.
look_at_inputs() {
    local arguments=(--kernels "${KERNELS[@]}" --datasets "${EXTRA_DATASETS[@]}") account
    ((!OLDER)) || arguments+=(--older)
    local -a CLIENT=("${LIBRARY[@]}")
    "$1" attached "${arguments[@]}"
    ((DRY_RUN)) && return
    [[ $FAILURE != credentials ]] || die $PREFLIGHT "$NO_TOKEN"
    [[ -z $FAILURE ]] || die $PREFLIGHT "what is attached cannot be looked at: $(last_line)"
    account=$(sed -n 's/^account //p' <<<"$ANSWER")
    [[ ${account,,} == "${OWNER,,}" ]] || die $USAGE "--owner $OWNER: the token is that of '$account'"
    [[ $ANSWER != *"not ready: "* ]] || die $PREFLIGHT "$(sed -n 's/^not ready: //p' <<<"$ANSWER")"$'\n'"Run or mend" \
        "it first; --older-inputs goes without the latest run of a notebook that ran well before."
    ATTACHED=$(sed -n '/^\(notebook\|dataset\) /p' <<<"$ANSWER")
    [[ -z $ATTACHED ]] || say "attached:"$'\n'"$ATTACHED"
}

# Step 4: from what git knows alone, so that neither left-over files nor secrets can get into the wheel.
build() {
    local source=$SCRATCH/source tree hash
    say "building the wheel of $COMMIT"
    if ((DRY_RUN)); then
        say "+ git archive ${COMMIT%-dirty} | tar -x -C $source"
        say "+ python3 -c '... setuptools.build_meta.build_wheel ...' $SCRATCH/wheel"
        say "+ python3 -m venv $SCRATCH/venv"
        say "+ $SCRATCH/venv/bin/python -I -m pip install --no-index --no-deps $SCRATCH/wheel/birdkit-*.whl"
        return
    fi
    tree=$(git -c user.name=birdkit -c user.email=birdkit@localhost stash create)
    mkdir -p "$source" "$SCRATCH/wheel"
    git archive "${tree:-HEAD}" | tar -x -C "$source"
    chmod -R u=rwX,go=rX "$source"
    (cd "$source" && SOURCE_DATE_EPOCH=$(git -C "$ROOT" log -1 --format=%ct) python3 -c \
        'import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])' "$SCRATCH/wheel") \
        >"$SCRATCH/build.log" 2>&1 ||
        die $PREFLIGHT "the wheel cannot be built:"$'\n'"$(tail -n 20 "$SCRATCH/build.log")"
    WHEEL=$(printf '%s\n' "$SCRATCH"/wheel/birdkit-*.whl)
    PACKAGE=$(ask package-sha256 "$WHEEL")
    hash=$(sha256sum "$WHEEL" | cut -d' ' -f1)
    say "$(basename "$WHEEL"): sha256 $hash"
    if ! grep -qsx "$hash" "$RUNS/installed"; then
        smoke_install
        echo "$hash" >>"$RUNS/installed"
    fi
    put "package_sha256=$PACKAGE" "wheel_sha256=$hash"
}

smoke_install() {
    local loaded
    say "installing it offline in a fresh environment"
    python3 -m venv "$SCRATCH/venv" || die $PREFLIGHT "python3 -m venv does not work"
    "$SCRATCH/venv/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-compile --no-index \
        --no-deps "$WHEEL" ||
        die $PREFLIGHT "the wheel cannot be installed"
    loaded=$("$SCRATCH/venv/bin/python" -I -c 'from birdkit.kaggle import manifest; print(manifest.package_sha256())') ||
        die $PREFLIGHT "the wheel cannot be imported"
    [[ $loaded == "$PACKAGE" ]] || die $PREFLIGHT "the wheel installs other code than it was built from"
}

# Step 5.
stage_wheels() {
    local found=() name
    shopt -s nullglob globstar
    for name in "$WHEELS"/**/*.whl; do
        [[ $(basename "$name") == birdkit-* ]] || found+=("$name")
    done
    shopt -u nullglob globstar
    ((${#found[@]})) || say "no other wheels in $WHEELS: without openvino notebook 04 predicts with torch, and slower"
    if ((DRY_RUN)); then
        say "$WHEEL_DATASET/: birdkit-*.whl ${found[*]##*/} MANIFEST.json dataset-metadata.json"
        say "MANIFEST.json: the commit, package_sha256, content_sha256, and each file's sha256 and bytes"
        ask metadata --owner "$OWNER" --slug "$WHEEL_DATASET" >&2
        return
    fi
    CONTENT=$(ask stage-wheels "$WHEEL" "${found[@]}" --folder "$SCRATCH/wheels" --owner "$OWNER" \
        --slug "$WHEEL_DATASET" --commit "$COMMIT") || die $PREFLIGHT "the wheels cannot be staged"
}

stage_weights() {
    if ((DRY_RUN)); then
        say "$WEIGHTS_DATASET/: ${WEIGHTS_FOUND//$'\n'/ } MANIFEST.json dataset-metadata.json"
        ask metadata --owner "$OWNER" --slug "$WEIGHTS_DATASET" >&2
        return
    fi
    CONTENT=$(ask stage-weights "$WEIGHTS" --folder "$SCRATCH/weights" --owner "$OWNER" \
        --slug "$WEIGHTS_DATASET" --commit "$COMMIT") || die $PREFLIGHT "the weights cannot be staged"
}

# Steps 6 and 7: a folder that was staged becomes a dataset, or its next version, unless it already is.
upload() {
    local lock=$RUNS/$OWNER/datasets/$2.lock
    if ((DRY_RUN)); then
        upload_alone "$@"
        return
    fi
    mkdir -p "$RUNS/$OWNER/datasets"
    exec 8>>"$lock"
    if ! flock -n 8; then
        say "another kaggle_submit.sh sends $OWNER/$2 (it holds $lock); waiting for it, Ctrl-C is safe"
        flock -w "$TIMEOUT" 8 || die $TIMED_OUT "$OWNER/$2: still being sent after $TIMEOUT s; --resume goes on"
    fi
    upload_alone "$@"
    exec 8>&-
}

upload_alone() {
    local folder=$1 slug=$2 dataset=$OWNER/$2 known=$RUNS/$OWNER/datasets/$2.json version=0 status=absent field
    look datasets status "$dataset" --format json
    case $FAILURE in
        '') read_dataset_status ;;
        absent) ;;
        credentials) die $PREFLIGHT "$NO_TOKEN" ;;
        forbidden) die $UPLOAD "$dataset is not yours, or hidden from you: $(last_line)" ;;
        *) die $UPLOAD "$dataset: $(last_line)" ;;
    esac
    if ((DRY_RUN)); then
        say "where it is there, and what it holds is not known here:"
        call datasets download "$dataset" -f MANIFEST.json -p "$SCRATCH/known" -o -q
        say "where it is not there, or else where it holds something else:"
        call datasets create -p "$folder" -r zip
        call datasets version -p "$folder" -r zip -m "birdkit $COMMIT sha256:CONTENT"
        call datasets status "$dataset" --format json
        call datasets files "$dataset" --format json --page-size 200
        return
    fi
    [[ -f $known || $status != ready ]] || read_manifest_of "$dataset" "$known"
    if [[ $(ask get "$known" --key content) == "$CONTENT" ]]; then
        field=$(ask get "$known" --key version)
        if [[ -n $field && $field == "$version" && $status == ready ]]; then
            say "$dataset: version $version holds the very same files, nothing to send"
            return
        fi
        field=$(ask get "$known" --key before)
        if [[ -n $field ]]; then
            say "$dataset: sent before, not seen ready yet"
            wait_for_dataset "$folder" "$slug" "$field"
            return
        fi
    fi
    if [[ $status == absent ]]; then
        call_shown datasets create -p "$folder" -r zip
    else
        call_shown datasets version -p "$folder" -r zip -m "birdkit $COMMIT sha256:${CONTENT:0:16}"
    fi
    [[ -z $FAILURE ]] || die $UPLOAD "$dataset: $(last_line)"
    ask check-upload <<<"$ANSWER" || die $UPLOAD "$dataset was not sent"
    ask set "$known" --set "content=$CONTENT" "before=$version" version=
    wait_for_dataset "$folder" "$slug" "$version"
}

# What another machine sent is known from the manifest that went with it.
read_manifest_of() {
    local sent
    look datasets download "$1" -f MANIFEST.json -p "$SCRATCH/known" -o -q
    [[ -z $FAILURE && -s $SCRATCH/known/MANIFEST.json ]] || return 0
    sent=$(ask sent-content "$SCRATCH/known/MANIFEST.json") || return 0
    rm "$SCRATCH/known/MANIFEST.json"
    ask set "$2" --set "content=$sent" "version=$version"
}

read_dataset_status() {
    local fields
    ((DRY_RUN)) && return
    fields=$(ask dataset-status <<<"$ANSWER") || die $UPLOAD "the answer on the dataset's status is not understood"
    status=${fields%$'\n'*} version=${fields#*$'\n'}
}

# Right after a version was made, its status can still be the old one's "ready".
wait_for_dataset() {
    local folder=$1 slug=$2 before=$3 dataset=$OWNER/$2 known=$RUNS/$OWNER/datasets/$2.json
    start_waiting "$dataset, a version after $before"
    while :; do
        look_waiting datasets status "$dataset" --format json
        if [[ $FAILURE == absent ]]; then
            status=absent
        else
            [[ -z $FAILURE ]] || die $UPLOAD "$dataset: $(last_line); --resume goes on waiting"
            read_dataset_status
        fi
        if [[ $status == failed || $status == deleted ]]; then
            rm -f "$known"
            die $UPLOAD "$dataset: its status is $status; see kaggle.com/datasets/$dataset"
        fi
        [[ $status != ready ]] || ((version <= before)) || break
        keep_waiting "$status (version $version)"
    done
    look_waiting datasets files "$dataset" --format json --page-size 200
    end_waiting
    [[ -z $FAILURE ]] || die $UPLOAD "$dataset: $(last_line); --resume goes on"
    if ! ask check-files "$folder/MANIFEST.json" <<<"$ANSWER"; then
        rm -f "$known"
        die $UPLOAD "$dataset is not what was sent"
    fi
    ask set "$known" --set before= "version=$version"
    say "$dataset: version $version is ready"
}

# Step 8.
push() {
    local folder=$SCRATCH/kernel stamp content refusals=0
    start_waiting "$OWNER/$KERNEL_SLUG, a push"
    recover_push
    if [[ -n $VERSION ]]; then
        say "the push that was cut off had arrived: version $VERSION"
        put "version=$VERSION"
        return
    fi
    [[ -n ${ATTACHED+known} ]] || look_at_inputs look_waiting # --resume
    stamp="sent by kaggle_submit.sh from $COMMIT, $(date -u +%Y-%m-%dT%H:%M:%SZ) $RANDOM$RANDOM"
    content=$(ask stage-kernel "notebooks/$NOTEBOOK.ipynb" --folder "$folder" "${KERNEL_ARGUMENTS[@]}" \
        --set "${SETTINGS[@]}" --stamp "$stamp") || die $PREFLIGHT "the notebook cannot be staged"
    CONTENT="$content $(get package_sha256) $(ask get "$RUNS/$OWNER/datasets/$WHEEL_DATASET.json" --key content)"
    [[ -z $WEIGHTS ]] || CONTENT+=" $(ask get "$RUNS/$OWNER/datasets/$WEIGHTS_DATASET.json" --key content)"
    CONTENT+=" ${ATTACHED//$'\n'/, }" # after training again it is not the same, whatever its name
    if ((!RESUME && !AGAIN && !NO_SUBMIT)) &&
        [[ $NOTEBOOK == "$LAST_NOTEBOOK" && $DONE_CONTENT == "$CONTENT" && $ATTACHED != *"version ?"* ]]; then
        say "the very same was submitted before, as version $DONE_VERSION; --again runs and submits it once more"
        VERSION=$DONE_VERSION COMMIT=$DONE_COMMIT
        put "version=$VERSION" "commit=$COMMIT" "content=$CONTENT" checked=yes accepted=yes
        return
    fi
    put "stamp=$stamp" "content=$CONTENT"
    start_waiting "$OWNER/$KERNEL_SLUG, a push"
    while :; do
        call kernels push -p "$folder" ${ACCELERATOR:+--accelerator "$ACCELERATOR"}
        if [[ -z $FAILURE ]]; then
            ! VERSION=$(ask pushed-version <<<"$ANSWER" 2>"$SCRATCH/refusal") || break
            FAILURE=$(ask failure <"$SCRATCH/refusal")
            [[ $FAILURE == busy ]] || refused_push
        fi
        if [[ $FAILURE != busy ]] && ! away; then
            [[ $FAILURE == other || $FAILURE == client ]] || put stamp= # nothing was taken: nothing to look for
            die $PUSH "$OWNER/$KERNEL_SLUG: $(last_line)"
        fi
        ((++refusals))
        keep_waiting "$FAILURE ($(last_line))"
        [[ $FAILURE == busy ]] || recover_push
        [[ -z $VERSION ]] || break
    done
    ((refusals == 0)) || end_waiting
    put "version=$VERSION"
    say "version $VERSION runs: https://www.kaggle.com/code/$OWNER/$KERNEL_SLUG"
}

# The version of a push that was sent and never answered, if it did arrive, in VERSION; within a wait.
recover_push() {
    local stamp
    local -a CLIENT=("${LIBRARY[@]}")
    VERSION='' stamp=$(get stamp)
    [[ -n $stamp ]] || return 0
    look_waiting find-push --owner "$OWNER" --slug "$KERNEL_SLUG" --stamp "$stamp"
    [[ -z $FAILURE ]] || die $PUSH "whether the last push arrived cannot be told: $(last_line); try --resume later"
    VERSION=$(sed -n 's/^version //p' <<<"$ANSWER") # the library may warn before
}

# Kaggle's answer to a push says no: what was not taken must not be taken up by --resume.
refused_push() {
    local refusal
    refusal=$(<"$SCRATCH/refusal")
    if [[ $refusal == *"not valid"* ]]; then
        put stamp= version=
        die $PUSH "$refusal"$'\n'"What was pushed without it runs on, for nothing; cancel it at" \
            "https://www.kaggle.com/code/$OWNER/$KERNEL_SLUG. --resume pushes anew."
    fi
    [[ $refusal == *"no version number"* ]] || put stamp= # it may have been taken all the same
    die $PUSH "$refusal"
}

# Step 9.
wait_for_kernel() {
    local fields state now tail
    start_waiting "$OWNER/$KERNEL_SLUG version $VERSION"
    while :; do
        look_waiting kernels status "$OWNER/$KERNEL_SLUG/$VERSION"
        [[ $FAILURE != credentials ]] || die $PREFLIGHT "$NO_TOKEN; --resume goes on waiting"
        [[ -z $FAILURE ]] || die $KERNEL "$WAIT_FOR cannot be looked at: $(last_line); --resume goes on waiting"
        fields=$(ask kernel-state <<<"$ANSWER") ||
            die $KERNEL "the answer on the notebook's status is not understood; --resume goes on waiting"
        state=${fields%%$'\n'*} now=${fields#*$'\n'}
        [[ $state == waiting ]] || break
        keep_waiting "$now"
    done
    end_waiting
    [[ $state == failed ]] || return 0
    say "$WAIT_FOR failed: $now"
    fetch '^$'
    if [[ -s $OUTPUT_DIR/$KERNEL_SLUG.log ]]; then
        tail=$(ask log-tail "$OUTPUT_DIR/$KERNEL_SLUG.log")
        say "the end of its log ($OUTPUT_DIR/$KERNEL_SLUG.log):"$'\n'"$tail"
    fi
    die $KERNEL "$WAIT_FOR: $now; see https://www.kaggle.com/code/$OWNER/$KERNEL_SLUG"
}

fetch() {
    rm -rf "$OUTPUT_DIR"
    look kernels output "$OWNER/$KERNEL_SLUG/$VERSION" -p "$OUTPUT_DIR" -o --page-size 200 --file-pattern "$1"
}

# Step 10: what Kaggle's client downloads may be an error's page, so everything is read.
check_output() {
    fetch "$WANTED"
    [[ -z $FAILURE ]] || die $OUTPUT "the output cannot be had: $(last_line); --resume goes on"
    ask check-wheel "$OUTPUT_DIR/run_manifest.json" --key "$NOTEBOOK" --sha256 "$(get package_sha256)" ||
        die $OUTPUT "version $VERSION did not run with the wheel that was sent"
    if [[ $NOTEBOOK == "$LAST_NOTEBOOK" ]]; then
        [[ -s $OUTPUT_DIR/submission.csv ]] || die $OUTPUT "version $VERSION wrote no submission.csv"
        check_submission
    fi
    put checked=yes
    say "checked: $(cd "$OUTPUT_DIR" && printf '%s ' *) in $OUTPUT_DIR"
}

check_submission() {
    local folder=$SCRATCH/sample rows
    if [[ -n $COMPETITION_DIR ]]; then
        python3 -m birdkit check "$OUTPUT_DIR/submission.csv" "$COMPETITION_DIR" >&2 ||
            die $OUTPUT "the submission would be refused"
        return
    fi
    mkdir -p "$folder"
    look competitions download "$COMPETITION" -f sample_submission.csv -p "$folder" -o -q
    if [[ -f $folder/sample_submission.csv.zip ]]; then
        python3 -m zipfile -e "$folder/sample_submission.csv.zip" "$folder"
    fi
    [[ -z $FAILURE && -s $folder/sample_submission.csv ]] ||
        die $OUTPUT "no sample_submission.csv to check with ($(last_line)): --resume --competition-dir DIR goes on"
    rows=$(ask check-sample "$OUTPUT_DIR/submission.csv" "$folder/sample_submission.csv") ||
        die $OUTPUT "the submission would be refused"
    say "submission.csv: $rows rows, as in the sample submission"
}

# Step 11: at most once. That a submission is about to be made is noted before, that it was taken right after: a list
# that lags behind, a lost answer or Ctrl-C leads to a look for it, never to a second of the day's five.
submit() {
    local key="[birdkit $KERNEL_SLUG $COMMIT v$VERSION]" refusals=0
    REF=''
    start_waiting "submission $key"
    if [[ $(get accepted) != yes ]]; then
        find_submission "$key"
        if [[ -n $REF ]]; then
            accepted "$key"
        elif [[ $(get submitting) == "$key" ]]; then
            say "it may have been made before: looking"
            settle "$key"
        fi
    fi
    while [[ $(get accepted) != yes ]]; do
        ask_limits
        ((LEFT > 0)) || die $SUBMIT "no submission is left today; --resume submits tomorrow"
        put "submitting=$key" "made_before=$MADE"
        call competitions submit "$COMPETITION" -k "$OWNER/$KERNEL_SLUG" -v "$VERSION" -f submission.csv \
            -m "${MESSAGE:+$MESSAGE }$key"
        case $FAILURE in
            '')
                say "$(last_line)"
                if ask check-accepted <<<"$ANSWER"; then accepted "$key"; else look_for_lost "$key"; fi
                ;;
            refused | throttled) # surely not taken
                put submitting=
                ((++refusals < TRIES)) || die $SUBMIT "not submitted: $(last_line); --resume tries again"
                keep_waiting "not submitted ($(last_line))"
                ;;
            credentials | forbidden | absent | busy)
                put submitting=
                die $SUBMIT "$(last_line)"
                ;;
            *) look_for_lost "$key" ;;
        esac
    done
    [[ -n $REF ]] || find_submission "$key"
    while [[ -z $REF ]]; do
        keep_waiting "accepted, not listed yet"
        find_submission "$key"
    done
    end_waiting
    say "submitted: $key is $REF"
}

accepted() {
    put "submitting=$1" accepted=yes "submitted_content=$(get content)" "submitted_version=$VERSION" \
        "submitted_commit=$COMMIT"
}

# After an answer that says neither yes nor no. Only where it was lost on the way the submission is made again.
look_for_lost() {
    local kind=$FAILURE why
    why=$(last_line)
    say "no word that it arrived ($why): looking"
    settle "$1"
    [[ $kind == server || $kind == proxy || $(get accepted) == yes ]] || die $SUBMIT "$why"
}

# After a lost answer: whether the submission arrived, by some minutes of looks and by Kaggle's own count. Returns where
# it did, and where it surely did not.
settle() {
    local looks before
    start_pace
    for ((looks = 0; looks < TRIES; looks++)); do
        find_submission "$1"
        if [[ -n $REF ]]; then
            accepted "$1"
            return
        fi
        keep_waiting "not listed"
    done
    before=$(get made_before)
    ask_limits
    put "made_before=$MADE"
    ((MADE <= ${before:-0})) ||
        die $SUBMIT "no $1 is listed, but Kaggle counts $MADE submissions today and counted ${before:-?} before: see" \
            "kaggle.com/competitions/$COMPETITION/submissions; if it is none of them, --resume submits"
    put submitting=
}

# What today still allows and has seen: LEFT, MADE.
ask_limits() {
    look_waiting competitions submission-limits "$COMPETITION"
    [[ -z $FAILURE ]] || die $SUBMIT "$(last_line); --resume goes on"
    read_limits
}

read_limits() {
    local fields
    fields=$(ask submission-limits <<<"$ANSWER") ||
        die $SUBMIT "the limit of submissions is not known; --resume goes on"
    LEFT=${fields%$'\n'*} MADE=${fields#*$'\n'}
}

# Reference, status and public score of the submission with that key: REF, STATUS, SCORE; REF is "" where there is none.
# Within a wait.
find_submission() {
    local fields
    look_waiting competitions submissions "$COMPETITION" --format json --page-size 200
    [[ -z $FAILURE ]] || die $SUBMIT "the submissions cannot be listed: $(last_line); --resume goes on"
    fields=$(ask submission --key "$1" <<<"$ANSWER") ||
        die $SUBMIT "the list of submissions is not understood; --resume goes on"
    REF='' STATUS='' SCORE=''
    { read -r REF && read -r STATUS && read -r SCORE; } <<<"$fields" || true
}

# Step 12.
wait_for_score() {
    local key="[birdkit $KERNEL_SLUG $COMMIT v$VERSION]" ref=$REF
    put "ref=$ref"
    start_waiting "submission $ref"
    while [[ $STATUS == pending || -z $STATUS ]]; do # a list may lag behind
        keep_waiting pending
        find_submission "$key"
    done
    end_waiting
    exec 7>>"$RUNS/submissions.lock" # another notebook's run may write its line now
    flock 7
    ask add-line "$ROOT/submissions.csv" --set "submitted=$(date -u +%Y-%m-%dT%H:%M:%SZ)" "competition=$COMPETITION" \
        "notebook=$NOTEBOOK" "kernel=$OWNER/$KERNEL_SLUG" "version=$VERSION" "ref=$ref" "public_score=$SCORE" \
        "status=$STATUS" "commit=$COMMIT" "package_sha256=$(get package_sha256)" "message=${MESSAGE:+$MESSAGE }$key" \
        >/dev/null
    [[ $STATUS == complete ]] ||
        die $SUBMIT "submission $ref: $STATUS; see kaggle.com/competitions/$COMPETITION/submissions"
    printf 'public score %s (submission %s, version %s)\n' "${SCORE:-hidden}" "$ref" "$VERSION"
}

# What the remaining calls would be, with what only they could tell left open.
show_rest() {
    say "$KERNEL_SLUG/: kernel-metadata.json, $NOTEBOOK.ipynb with a cell more:"$'\n'"$INJECTED"
    ask metadata "notebooks/$NOTEBOOK.ipynb" "${KERNEL_ARGUMENTS[@]}" >&2
    call kernels push -p "$SCRATCH/kernel" ${ACCELERATOR:+--accelerator "$ACCELERATOR"}
    call kernels status "$OWNER/$KERNEL_SLUG/VERSION"
    call kernels output "$OWNER/$KERNEL_SLUG/VERSION" -p "$OUTPUT_DIR" -o --page-size 200 --file-pattern "$WANTED"
    [[ $NOTEBOOK == "$LAST_NOTEBOOK" ]] && ((!NO_SUBMIT)) || return 0
    if [[ -n $COMPETITION_DIR ]]; then
        say "+ python3 -m birdkit check $OUTPUT_DIR/submission.csv $COMPETITION_DIR"
    else
        call competitions download "$COMPETITION" -f sample_submission.csv -p "$SCRATCH/sample" -o -q
    fi
    call competitions submissions "$COMPETITION" --format json --page-size 200
    call competitions submission-limits "$COMPETITION"
    call competitions submit "$COMPETITION" -k "$OWNER/$KERNEL_SLUG" -v VERSION -f submission.csv \
        -m "${MESSAGE:+$MESSAGE }[birdkit $KERNEL_SLUG $COMMIT vVERSION]"
    call competitions submissions "$COMPETITION" --format json --page-size 200
}

send() {
    if ((!RESUME)) || [[ $(get sent) != yes ]]; then
        build
        stage_wheels
        upload "$SCRATCH/wheels" "$WHEEL_DATASET"
        if [[ -n $WEIGHTS ]]; then
            stage_weights
            upload "$SCRATCH/weights" "$WEIGHTS_DATASET"
        fi
        ((DRY_RUN)) || put sent=yes
    fi
}

SHOWN=''

main() {
    CALLED_FROM=$PWD
    ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    cd "$ROOT"
    [[ -n ${VIRTUAL_ENV:-} || ! -x .venv/bin/python3 ]] || PATH=$ROOT/.venv/bin:$PATH
    export PYTHONPATH=$ROOT
    parse "$@"
    RUNS=${KAGGLE_SUBMIT_RUNS:-$ROOT/kaggle_runs}
    OUTPUT_DIR=$RUNS/$OWNER/$COMPETITION/$KERNEL_SLUG/output
    KERNEL_ARGUMENTS=(--owner "$OWNER" --slug "$KERNEL_SLUG" --competition "$COMPETITION" --accelerator "$ACCELERATOR"
        --datasets "${DATASETS[@]}" --kernels "${KERNELS[@]}")
    ((!INTERNET)) || KERNEL_ARGUMENTS+=(--internet)
    SCRATCH=$(mktemp -d)
    trap 'rm -rf "$SCRATCH"' EXIT
    trap 'say "kaggle_submit: failed at line $LINENO: $BASH_COMMAND"; exit 1' ERR
    trap stopped INT
    trap 'stopped 143' TERM
    hidden=$(ask secrets) || die $PREFLIGHT "the token's file cannot be read"
    mapfile -t SECRETS < <(printf '%s' "$hidden")
    lock
    preflight
    open_state
    send
    if ((DRY_RUN)); then
        ((WHEEL_ONLY)) || show_rest
        return
    fi
    if ((WHEEL_ONLY)); then
        printf '%s\n' "https://www.kaggle.com/datasets/$OWNER/$WHEEL_DATASET"
        return
    fi
    VERSION=$(get version)
    [[ -n $VERSION ]] || push
    if [[ $(get checked) != yes ]]; then
        wait_for_kernel
        check_output
    fi
    if [[ $NOTEBOOK != "$LAST_NOTEBOOK" ]] || ((NO_SUBMIT)); then
        printf '%s\n' "https://www.kaggle.com/code/$OWNER/$KERNEL_SLUG"
        return
    fi
    submit
    wait_for_score
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
