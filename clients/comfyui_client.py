"""Client of the ComfyUI API: pictures from text, edits of pictures, and any workflow.

    client = create_client("http://localhost:8000")
    prompt_id = client.generate_text2image("A serene mountain landscape at sunset", steps=20)
    client.wait_for_images(prompt_id)[0].save("landscape.png")

Progress comes through a WebSocket where one can be opened, else by asking again and again.
"""

from __future__ import annotations

import io
import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import httpx
from PIL import Image

from clients.comfyui_errors import (
    ComfyUIError,
    GenerationTimeout,
    ServiceUnreachable,
    WorkflowFailed,
    WorkflowInterrupted,
    explain_failure,
    explain_refusal,
)
from clients.comfyui_workflows import edit_workflow, text2image_workflow

#: Images by node, as the server's history has them.
Outputs: TypeAlias = Mapping[str, Mapping[str, Any]]
#: Hears of steps done and to do.
OnProgress: TypeAlias = Callable[[int, int], None]

DEFAULT_URL: Final = "http://localhost:8000"
#: Seconds for one HTTP call.
DEFAULT_TIMEOUT: Final = 30.0
#: Seconds for a picture: one of many steps on a CPU takes minutes.
DEFAULT_MAX_WAIT: Final = 600.0
#: Seconds between looks where there is no socket, and between looks beside one.
POLL_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 5.0
#: Messages of the socket after which a prompt's history can be read.
ENDINGS: Final = ("execution_success", "execution_error", "execution_interrupted")


def create_client(url: str = DEFAULT_URL, timeout: float = DEFAULT_TIMEOUT) -> ComfyUIClient:
    """A client of the server at ``url``; ``timeout`` is in seconds, for one HTTP call."""
    return ComfyUIClient(url, timeout=timeout)


class ComfyUIClient:
    """Queues workflows, waits for them, and reads their pictures.

    Args:
        base_url: where the gateway is.
        timeout: seconds for one HTTP call.
        api_key: the gateway's key, if it has one.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        api_key: str | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.client_id = f"notebook_student_{secrets.token_hex(6)}"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=self.base_url, timeout=timeout, headers=self._headers, follow_redirects=True
        )
        self._timeout = timeout

    # -- pictures -------------------------------------------------------------------------------

    def generate_text2image(
        self,
        prompt: str,
        negative_prompt: str = "",
        width: int = 1024,
        height: int = 1024,
        steps: int = 20,
        cfg_scale: float = 7.0,
        seed: int = -1,
        **options: Any,
    ) -> str:
        """Queue a drawing; returns its prompt id. A seed of -1 draws one.

        Options are those of ``text2image_workflow``.
        """
        return self.queue(
            text2image_workflow(
                prompt,
                negative_prompt,
                width=width,
                height=height,
                steps=steps,
                cfg=cfg_scale,
                seed=seed,
                **options,
            )
        )

    def edit_image(
        self,
        image: Image.Image,
        prompt: str,
        strength: float = 0.7,
        steps: int = 25,
        negative_prompt: str = "",
        cfg_scale: float = 7.5,
        seed: int = -1,
        **options: Any,
    ) -> str:
        """Upload a picture and queue an edit of it; returns its prompt id.

        ``strength`` is 0 to 1, how much may change. Options are those of ``edit_workflow``.
        """
        return self.queue(
            edit_workflow(
                self.upload_image(image),
                prompt,
                negative_prompt,
                denoise=strength,
                steps=steps,
                cfg=cfg_scale,
                seed=seed,
                **options,
            )
        )

    def wait_for_images(
        self,
        prompt_id: str,
        max_wait: float = DEFAULT_MAX_WAIT,
        on_progress: OnProgress | None = None,
    ) -> list[Image.Image]:
        """The pictures of a queued prompt, once it has ended.

        Raises ``GenerationTimeout``, ``WorkflowFailed``, ``WorkflowInterrupted``.
        """
        return self._images(self.wait(prompt_id, max_wait, on_progress))

    def execute_workflow(
        self,
        workflow_json: Mapping[str, Any],
        wait_for_completion: bool = True,
        max_wait: float = 60,
    ) -> dict[str, Any]:
        """Run a workflow in the API format, and say on the way how far it is.

        Returns ``{"images": [...], "count": n}``, or, without waiting, ``{"prompt_id": ...,
        "status": "queued"}``. Raises as ``queue`` and ``wait`` do.
        """
        prompt_id = self.queue(workflow_json)
        _say(f"✅ Workflow queued: {prompt_id}")
        if not wait_for_completion:
            return {"prompt_id": prompt_id, "status": "queued"}
        started = time.monotonic()
        outputs = self.wait(prompt_id, max_wait, _say_progress)
        _say(f"✅ Génération terminée en {time.monotonic() - started:.1f}s")
        images = self._images(outputs)
        return {"images": images, "count": len(images)}

    # -- the API's calls ------------------------------------------------------------------------

    def queue(self, workflow: Mapping[str, Any], **fields: Any) -> str:
        """Queue a workflow; returns its prompt id. Fields go beside it: ``front``, ``extra_data``.

        Raises ``WorkflowInvalid`` with what is wrong in which node, ``ServiceUnreachable``.
        """
        body = {"prompt": workflow, "client_id": self.client_id, **fields}
        prompt_id: str = self._call("POST", "/prompt", json=body).json()["prompt_id"]
        return prompt_id

    def upload_image(self, image: Image.Image, name: str | None = None) -> str:
        """Upload a picture as PNG; returns the name by which ``LoadImage`` finds it."""
        data = io.BytesIO()
        image.save(data, "PNG")
        name = name or f"upload_{secrets.token_hex(6)}.png"
        files = {"image": (name, data.getvalue(), "image/png")}
        kept = self._call("POST", "/upload/image", files=files).json()
        return f"{kept['subfolder']}/{kept['name']}" if kept.get("subfolder") else kept["name"]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """A prompt's entry in the history; None until it has ended."""
        entry = self._call("GET", f"/history/{quote(prompt_id, safe='')}").json()
        found: dict[str, Any] | None = entry.get(prompt_id)
        return found

    def interrupt(self, prompt_id: str) -> None:
        """End a prompt early: at once while it waits, at its next step while it runs."""
        self._call("POST", "/queue", json={"delete": [prompt_id]})
        self._call("POST", "/interrupt", json={"prompt_id": prompt_id})

    def wait(
        self,
        prompt_id: str,
        max_wait: float = DEFAULT_MAX_WAIT,
        on_progress: OnProgress | None = None,
    ) -> Outputs:
        """Wait for a prompt's end; returns its outputs, by node.

        Raises ``GenerationTimeout`` after ``max_wait`` seconds (the prompt goes on),
        ``WorkflowFailed`` and ``WorkflowInterrupted``.
        """
        deadline = time.monotonic() + max_wait
        for _ in self._looks(prompt_id, deadline, on_progress):
            if (entry := self.history(prompt_id)) is not None:
                return parse_outputs(prompt_id, entry)
        raise GenerationTimeout(prompt_id, max_wait)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> ComfyUIClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- inside ---------------------------------------------------------------------------------

    def _images(self, outputs: Outputs) -> list[Image.Image]:
        return [self._image(file) for output in outputs.values() for file in _files(output)]

    def _image(self, file: Mapping[str, str]) -> Image.Image:
        params = {name: file.get(name, "") for name in ("filename", "subfolder", "type")}
        image = Image.open(io.BytesIO(self._call("GET", "/view", params=params).content))
        image.load()
        return image

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise ServiceUnreachable(self.base_url, self._timeout, error) from error
        if response.is_success:
            return response
        raise explain_refusal(response.status_code, _body(response))

    def _looks(
        self, prompt_id: str, deadline: float, on_progress: OnProgress | None
    ) -> Iterator[None]:
        """A yield whenever the history is worth reading, until the deadline."""
        yield
        for message in self._messages(deadline):
            if _ends(message, prompt_id):
                yield
            elif on_progress and (steps := _steps(message, prompt_id)):
                on_progress(*steps)
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL_SECONDS, left))
            yield

    def _messages(self, deadline: float) -> Iterator[Mapping[str, Any]]:
        """Messages of the socket until the deadline, or until it breaks; none where there is none.
        An ``idle`` one comes after some silence."""
        try:
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect
        except ImportError:
            return
        url = f"{self.base_url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        try:
            with connect(
                url, additional_headers=self._headers, open_timeout=self._timeout, max_size=None
            ) as socket:
                yield {"type": "idle"}  # it may have ended before the socket was open
                while (left := deadline - time.monotonic()) > 0:
                    try:
                        frame = socket.recv(timeout=min(LOOK_SECONDS, left))
                    except TimeoutError:
                        yield {"type": "idle"}
                        continue
                    if isinstance(frame, str):
                        yield json.loads(frame)
        except (OSError, WebSocketException):
            return  # asking still works


def parse_outputs(prompt_id: str, entry: Mapping[str, Any]) -> Outputs:
    """The outputs of an ended prompt's history entry.

    Raises ``WorkflowFailed`` or ``WorkflowInterrupted`` when it did not end well.
    """
    status = entry.get("status") or {}
    for kind, data in status.get("messages", ()):
        if kind == "execution_error":
            raise explain_failure(data)
        if kind == "execution_interrupted":
            raise WorkflowInterrupted(prompt_id)
    if status.get("status_str") == "error":
        raise WorkflowFailed("the workflow failed; the server does not say why")
    outputs: Outputs = entry["outputs"]
    return outputs


def _files(output: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    files: Sequence[Mapping[str, str]] = output.get("images", ())
    return files


def _ends(message: Mapping[str, Any], prompt_id: str) -> bool:
    """Whether the prompt may have ended."""
    kind, data = message["type"], message.get("data") or {}
    if kind == "idle":
        return True
    if data.get("prompt_id") != prompt_id:
        return False
    return kind in ENDINGS or (kind == "executing" and data.get("node") is None)


def _steps(message: Mapping[str, Any], prompt_id: str) -> tuple[int, int] | None:
    data = message.get("data") or {}
    if message["type"] != "progress" or data.get("prompt_id") != prompt_id:
        return None
    return data["value"], data["max"]


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _say_progress(step: int, num_steps: int) -> None:
    _say(f"⏳ Génération en cours... {step}/{num_steps}")


__all__ = [
    "ComfyUIClient",
    "ComfyUIError",
    "GenerationTimeout",
    "ServiceUnreachable",
    "WorkflowFailed",
    "WorkflowInterrupted",
    "create_client",
]
