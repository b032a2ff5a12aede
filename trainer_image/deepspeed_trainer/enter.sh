# Sourced by a pod's bash before Ray starts, where the trainer was injected into an image that need
# not know of it.  Sets what the trainer image sets for itself, and ends the pod with a sentence
# where the trainer cannot run.  Arguments are those of supported.py.
trainer_site="${BASH_SOURCE[0]%/*/*}"
export PYTHONPATH="$trainer_site${PYTHONPATH:+:$PYTHONPATH}"
# The pod's user need not be one that the image knows.
export USER="${USER:-trainer}" LOGNAME="${LOGNAME:-trainer}"
if ! command -v python >/dev/null; then
    export PATH="$PATH:$trainer_site/deepspeed_trainer/python_path"
    command -v python3 >/dev/null || {
        echo "this image has neither python nor python3 on its PATH; use one that has Python, torch," \
            "DeepSpeed and Ray, or one built on the trainer image" >&2
        exit 78
    }
fi
python "$trainer_site/deepspeed_trainer/supported.py" "$@" || exit 78
