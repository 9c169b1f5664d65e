"""What a notebook will read on Kaggle: whether it is there and done, and in which version."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from birdkit.sending.recovery import asking, latest, unless_absent


def describe_inputs(kernels: Sequence[str], datasets: Sequence[str], older: bool = False) -> list[str]:
    """The line "account NAME", and one for each input, such as "notebook OWNER/SLUG version 3 complete"; asks Kaggle.

    kernels   notebooks whose outputs are attached, "owner/slug" each
    datasets  the same for datasets
    older     True where the output before will do if the latest run of a notebook failed or still runs

    The line of an input that is not there, or not as it must be, begins with "not ready: ". Two equal answers mean
    equal inputs, but for a version that Kaggle does not tell, which is "?". Raises what the library raises where Kaggle
    cannot be asked.
    """
    with asking() as (client, account):
        found = [("notebook", name, *_notebook_run(client, name)) for name in kernels]
        found += [("dataset", name, *_dataset(client, name)) for name in datasets]
    lines = [f"account {account}"]
    for kind, name, version, state in found:
        ready = state in ("complete", "ready") or (older and kind == "notebook" and state != "absent")
        lines.append(f"{'' if ready else 'not ready: '}{kind} {name} version {version or '?'} {state}")
    return lines


def _notebook_run(client: Any, name: str) -> tuple[int, str]:
    """Number and state of the latest run, "unknown" for someone else's whose runs Kaggle does not show."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

    kernel = latest(client, name)
    if kernel is None:
        return 0, "absent"
    request = ApiGetKernelSessionStatusRequest()
    request.user_name, request.kernel_slug = name.split("/")
    session = unless_absent(client.kernels.kernels_api_client.get_kernel_session_status, request)
    return kernel.metadata.current_version_number, session.status.name.lower() if session else "unknown"


def _dataset(client: Any, name: str) -> tuple[int, str]:
    """Number and state of the latest version; someone else's that can be seen is ready."""
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest, ApiGetDatasetStatusRequest

    asked, request = ApiGetDatasetStatusRequest(), ApiGetDatasetRequest()
    asked.owner_slug, asked.dataset_slug = request.owner_slug, request.dataset_slug = name.split("/")
    dataset = unless_absent(client.datasets.dataset_api_client.get_dataset, request)
    if dataset is None:
        return 0, "absent"
    status = unless_absent(client.datasets.dataset_api_client.get_dataset_status, asked)
    return dataset.current_version_number, status.status.name.lower() if status else "ready"
