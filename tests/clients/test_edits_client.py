"""The documented client: its example as written, and ours with the same behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from clients.edits_client import edit_images, edit_images_async, save_images
from tests.router.apis.conftest import Gateway, openai_gateway
from tests.router.apis.drawing import picture

KEY = "your-key-here"

#: The section of the API's document that holds the client, as written.
SEED = '''
## Python 客户端示例

```python
import requests
import base64
from PIL import Image
import io

def edit_images(image_paths, prompt, api_key=None):
    """编辑一张或多张图像"""
    
    url = "http://localhost:8000/v1/images/edits"
    
    # 准备认证（如果需要）
    auth = None
    if api_key:
        auth = ("user", api_key)
    
    # 准备请求
    files = []
    for image_path in image_paths:
        with open(image_path, "rb") as f:
            files.append(("images", (image_path, f.read(), "image/jpeg")))
    
    data = {
        "prompt": prompt,
        "negative_prompt": "low quality, blurry",
        "num_inference_steps": 50,
        "n": 2,  # 每张输入生成 2 个变体
    }
    
    # 发送请求
    response = requests.post(url, files=files, data=data, auth=auth)
    response.raise_for_status()
    
    result = response.json()
    
    # 保存结果
    for idx, item in enumerate(result["data"]):
        image_data = base64.b64decode(item["b64_json"])
        img = Image.open(io.BytesIO(image_data))
        img.save(f"output_{idx}.png")
    
    print(f"输入: {result['usage']['input_images']} 张")
    print(f"输出: {result['usage']['generated_images']} 张")
    print(f"处理时间: {result['usage']['processing_time_seconds']:.2f}s")
    return result

# 使用示例
# 单张图像
edit_images(["input.jpg"], "make the sky more blue", api_key="your-key-here")

# 多张图像批处理
edit_images(["photo1.jpg", "photo2.jpg", "photo3.jpg"], 
            "enhance colors", 
            api_key="your-key-here")
```
'''  # noqa: W291, W293


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with openai_gateway(api_key=KEY) as running:
        yield running


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's files, in the folder that it runs in."""
    monkeypatch.chdir(tmp_path)
    for name in ("input.jpg", "photo1.jpg", "photo2.jpg", "photo3.jpg"):
        (tmp_path / name).write_bytes(picture((128, 96), kind="JPEG"))
    return tmp_path


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("output_*"))


SIX = [f"output_{k}.png" for k in range(6)]


def example(gateway: Gateway) -> str:
    code = SEED.partition("```python\n")[2].partition("```")[0]
    return code.replace("http://localhost:8000", gateway.url)


def test_the_seeds_example_runs_as_written(
    gateway: Gateway, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(example(gateway), "seed", "exec"), {})
    assert saved(photos) == SIX
    told = capsys.readouterr().out.splitlines()
    assert told[3:5] == ["输入: 3 张", "输出: 6 张"]
    assert [call.prompt for call in gateway.models.calls[-3:]] == ["enhance colors"] * 3


def test_the_seeds_calls_run_with_our_client(
    gateway: Gateway, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ours(*args: object, **options: object) -> object:
        return edit_images(*args, base_url=gateway.url, **options)  # type: ignore[arg-type]

    calls = example(gateway).partition("# 使用示例")[2]
    exec(compile(calls, "seed", "exec"), {"edit_images": ours})
    assert saved(photos) == SIX
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["输入: 1 张", "输出: 2 张"]
    assert told[2].startswith("处理时间: ")
    assert told[2].endswith("s")


def test_edit_images_returns_the_answer_and_takes_fields(gateway: Gateway, photos: Path) -> None:
    answer = edit_images(
        ["input.jpg"],
        "blue",
        KEY,
        base_url=gateway.url,
        output_dir=photos,
        n=1,
        size="64x96",
        seed=4,
        num_inference_steps=None,
    )
    assert answer["data"][0]["seed"] == 4
    assert Image.open(photos / "output_0.png").size == (64, 96)
    assert gateway.models.calls[-1].params.num_inference_steps == 50
    assert gateway.models.calls[-1].negative_prompt == "low quality, blurry"


async def test_edit_images_async_is_the_same(gateway: Gateway, photos: Path) -> None:
    answer = await edit_images_async(["input.jpg"], "blue", KEY, base_url=gateway.url, size="64x64")
    assert answer["usage"]["generated_images"] == 2
    assert saved(photos) == SIX[:2]


def test_a_refusal_raises(gateway: Gateway) -> None:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        edit_images(["input.jpg"], "blue", "wrong", base_url=gateway.url)
    assert caught.value.response.json()["detail"]["error"] == "UNAUTHORIZED"


def test_tensors_are_saved_under_their_own_name(photos: Path) -> None:
    save_images({"data": [{"b64_json": "AAAA"}]}, photos)
    assert saved(photos) == ["output_0.safetensors"]
