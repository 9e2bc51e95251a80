"""A hook of the site's build: on Chinese pages what the theme itself says is Chinese too."""

import copy
from typing import Any

# What is not among the theme's translations.
_CHINESE = {
    'title="Permanent link"': 'title="本节链接"',
    '="Light"': '="浅色模式"',
    '="Dark"': '="深色模式"',
    "Made with\n": "网站生成工具：\n",
}
_DESCRIPTION = "PaddlePaddle 的训练损失库，面向基于可微分二值化（DB）的文本检测模型。"


def on_page_context(context: dict[str, Any], page: Any, config: Any, nav: Any) -> dict[str, Any]:
    """Set the theme's language, of which it has one for all pages, to that of the page to come."""
    chinese = _is_chinese(page)
    config.theme["language"] = "zh" if chinese else "en"
    config.extra["homepage"] = "zh/" if chinese else None  # where the logo leads
    if chinese:
        page.meta.setdefault("description", _DESCRIPTION)
        context["nav"] = copy.copy(nav)
        context["nav"].items = sorted(nav.items, key=lambda item: item.title != "中文")
    return context


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Return a Chinese page with what is left in English translated."""
    if _is_chinese(page):
        for english, chinese in _CHINESE.items():
            output = output.replace(english, chinese)
    return output


def _is_chinese(page: Any) -> bool:
    return bool(page.file.src_uri.startswith("zh/"))
