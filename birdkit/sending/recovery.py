"""Whether a push that was cut off had arrived: what Kaggle's command cannot answer, and its library can."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def asking() -> Iterator[tuple[Any, str]]:
    """Kaggle's client, signed in as its command is, and the name of the account.

    Needs the package `kaggle`, which ends the process with its advice on stdout where there is no token.
    """
    from kaggle.api.kaggle_api_extended import KaggleApi

    api = KaggleApi()
    api.authenticate()
    with api.build_kaggle_client() as client:
        yield client, str(api.config_values.get(api.CONFIG_NAME_USER) or "")


def find_push(owner: str, slug: str, stamp: str) -> int | None:
    """The number of a notebook's latest version, where its source holds the stamp of the push; None where it does not.

    Asks Kaggle. A notebook that does not exist yet has no push; raises what the library raises where Kaggle cannot be
    asked.
    """
    with asking() as (client, _):
        kernel = latest(client, f"{owner}/{slug}")
    return kernel.metadata.current_version_number if kernel and stamp in str(kernel.blob.source) else None


def latest(client: Any, name: str) -> Any:
    """The latest version of a notebook "owner/slug"; None where there is none, or it is hidden."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = name.split("/")
    return unless_absent(client.kernels.kernels_api_client.get_kernel, request)


def unless_absent(ask: Any, request: Any) -> Any:
    """The answer to a request; None where Kaggle says 403 or 404."""
    from requests.exceptions import HTTPError

    try:
        return ask(request)
    except HTTPError as error:
        if error.response is not None and error.response.status_code in (403, 404):
            return None
        raise
