"""Whether a push that was cut off had arrived: what Kaggle's command cannot answer, and its library can."""
from __future__ import annotations


def find_push(owner: str, slug: str, stamp: str) -> int | None:
    """The number of a notebook's latest version, where its source holds the stamp of the push; None where it does not.

    Needs the package `kaggle`, and asks Kaggle. Raises what the library raises where Kaggle cannot be asked, but for a
    notebook that does not exist yet.
    """
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest
    from requests.exceptions import HTTPError

    api = KaggleApi()
    api.authenticate()
    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = owner, slug
    try:
        with api.build_kaggle_client() as client:
            kernel = client.kernels.kernels_api_client.get_kernel(request)
    except HTTPError as error:
        if error.response is not None and error.response.status_code in (403, 404):
            return None
        raise
    return kernel.metadata.current_version_number if stamp in str(kernel.blob.source) else None
