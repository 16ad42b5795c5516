"""Every visible string of the page, English beside Chinese; knows no component."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]


class Both:
    """One string in both languages; reading it through a `Texts` gives the one of that page."""

    def __init__(self, en: str, zh: str) -> None:
        self.en, self.zh = en, zh

    def __get__(self, page: Texts, owner: type[Texts]) -> str:
        return self.zh if page.language == "zh" else self.en


class Texts:
    """The strings of one page. Placeholders in braces are filled by `str.format` at the place of use."""

    def __init__(self, language: Language) -> None:
        self.language = language

    title = Both("Quartet", "Quartet")
    tagline = Both(
        "Chat with open models and with your own documents, on your own machine",
        "在自己的机器上与开源模型对话，向自己的文档提问",
    )
    other_language = Both("中文", "English")
    other_page = Both("./zh", "./?lang=en")

    # Accounts
    account = Both("Account", "账户")
    operator = Both("Operator, by token", "管理者（凭令牌）")
    log_out = Both("Log out", "退出登录")
    new_token = Both("New API token", "新建 API 令牌")
    new_token_placeholder = Both("What it is for", "用途")
    make = Both("Make", "生成")
    token_once = Both("Copy it now: it is not shown again", "请立即复制，之后不再显示")
    a_token = Both("My tokens", "我的令牌")
    revoke = Both("Revoke", "吊销")
    no_tokens = Both("No API tokens yet", "还没有 API 令牌")
    used = Both("used {when} UTC", "上次使用 {when} UTC")
    never_used = Both("never used", "从未使用")
    users = Both("Users", "用户")
    no_users = Both("No accounts yet", "还没有账户")
    user_name = Both("Name of an account, new or old", "账户名（新建或已有）")
    user_role = Both("Role", "角色")
    password = Both("Password", "密码")
    add_user = Both("Add", "添加")
    set_role = Both("Set role", "更改角色")
    set_password = Both("Set password", "重设密码")
    remove_user = Both("Remove", "删除")
    keep_user = Both("Keep", "保留")
    remove_user_sure = Both(
        "Remove “{name}” with all tokens and sessions? The knowledge bases stay, for admins.",
        "删除“{name}”及其全部令牌和会话？其知识库将保留给管理员。",
    )

    # Both conversations
    question_label = Both("Message", "消息")
    send = Both("Send", "发送")
    stop = Both("Stop", "停止")
    retry = Both("Retry", "重试")
    clear = Both("Clear", "清空")
    thought = Both("Thoughts", "思考过程")
    in_line = Both("In line: number {place}.", "排队中：第 {place} 位。")
    stopped = Both("Stopped.", "已停止。")
    cut = Both(
        "The answer reached the limit of new tokens. Raise “Max new tokens” for a longer one.",
        "回答已达到新词元上限。需要更长的回答请调高“最大新词元数”。",
    )
    lost = Both(
        "Something went wrong while answering. Please try again; the server log has the details.",
        "回答时出现意外错误，请重试；详情见服务器日志。",
    )
    too_long = Both(
        "The message is longer than {limit} characters. Please shorten it, or upload it as a document.",
        "消息超过 {limit} 个字符，请缩短，或作为文档上传。",
    )
    busy_here = Both(
        "An answer is still being written. Stop it first.",
        "上一个回答还在生成，请先停止。",
    )

    notice = Both("Please note", "提示")
    admins_only = Both("Only admins may do this: ask one.", "只有管理员可以执行此操作，请联系管理员。")
    not_a_number = Both("“{field}” must be a number.", "“{field}”必须是数字。")

    # Chat tab
    chat_tab = Both("Chat", "对话")
    chat_placeholder = Both("Ask anything", "随便问点什么")
    chat_empty = Both(
        "### What is on your mind?\nAnswers come from **{model}**.", "### 想聊点什么？\n由 **{model}** 回答。"
    )
    chat_no_model = Both(
        "### Ask anything\nAs soon as a language model is loaded, it answers here.",
        "### 随便问点什么\n加载语言模型后，即可在此对话。",
    )
    no_model_notice = Both(
        "**No language model is loaded.** Load {starter} with one click: it answers on a CPU, needs about "
        "{gib:.1f} GiB of memory and is downloaded once. Without one the LangChain tab still quotes your documents.",
        "**还没有加载语言模型。** 一键加载 {starter}：可在 CPU 上回答，约需 {gib:.1f} GiB 内存，只需下载一次。"
        "没有模型时，LangChain 页仍可引用文档原文作答。",
    )
    load_starter = Both("Load {starter}", "加载 {starter}")

    # LangChain tab
    langchain_tab = Both("LangChain", "LangChain")
    base_label = Both("Knowledge base", "知识库")
    base_info = Both("Questions are answered from this one", "回答以此知识库为依据")
    owned = Both("{name} · {owner}", "{name} · {owner}")
    everybody = Both("shared", "共享")
    new_base = Both("New knowledge base", "新建知识库")
    new_base_placeholder = Both("A name, e.g. Handbook", "名称，例如：员工手册")
    create = Both("Create", "新建")
    upload_label = Both("Documents (txt, md, docx, pdf)", "文档（txt、md、docx、pdf）")
    vectorize = Both("Vectorize", "向量化")
    manage = Both("Manage", "管理")
    remove_file = Both("A document", "文档")
    remove = Both("Remove", "移除")
    read_again = Both("Read again", "重新读取")
    stop_reading = Both("Stop", "停止")
    delete_base = Both("Delete this knowledge base", "删除此知识库")
    delete_base_sure = Both(
        "Delete “{name}” with its {files} documents? This cannot be undone.",
        "删除“{name}”及其中 {files} 个文档？此操作无法撤销。",
    )
    delete_yes = Both("Delete", "删除")
    cancel = Both("Cancel", "取消")
    default_base = Both("default", "default")
    ask_placeholder = Both("Ask your documents", "向文档提问")
    langchain_empty = Both(
        "### Ask your documents\nUpload files, press *Vectorize*, then ask. Every answer names its file and page.",
        "### 向文档提问\n上传文件，点击「向量化」，然后提问。每个回答都注明文件与页码。",
    )
    answer_mode = Both("Answer", "回答方式")
    mode_both = Both("Model and documents", "模型与文档")
    mode_retrieve = Both("Documents only", "仅检索文档")
    mode_model = Both("Model only", "仅模型")
    quote_mode = Both(
        "Quote mode: no language model is loaded, so answers are the best-matching sentences of your documents.",
        "引用模式：未加载语言模型，回答为文档中最匹配的原句。",
    )
    nothing_uploaded = Both("Choose one or more files first.", "请先选择一个或多个文件。")
    same_content = Both(
        "“{name}” has the same content as “{known}”, which is here already: it is found under that name.",
        "“{name}”与已有的“{known}”内容相同，可按该名称检索到。",
    )
    not_uploaded = Both("That file was not uploaded here. Please choose it again.", "该文件并非在此上传，请重新选择。")
    no_base = Both(
        "Upload documents and press Vectorize first, or choose a knowledge base.",
        "请先上传文档并点击“向量化”，或选择知识库。",
    )
    no_files = Both("No documents here yet.", "这里还没有文档。")
    sources = Both("Sources", "来源")
    no_sources = Both(
        "No passage of the documents matched this question.",
        "文档中没有与此问题相符的段落。",
    )
    page = Both("page {page}", "第 {page} 页")
    score = Both("match {score}%", "匹配 {score}%")
    uploaded = Both("Waiting", "等待中")
    parsing = Both("Reading", "读取中")
    embedding = Both("Vectorizing", "向量化中")
    searchable = Both("searchable", "可检索")
    failed_why = Both("failed: {why}", "失败：{why}")
    pages_one = Both("1 page", "1 页")
    pages_many = Both("{n} pages", "{n} 页")
    passages_one = Both("1 passage", "1 个段落")
    passages_many = Both("{n} passages", "{n} 个段落")

    embedding_model = Both("Embedding model", "向量模型")
    no_embedding_model = Both("None yet", "尚无")
    version = Both("version {version}", "版本 {version}")
    next_embedding_model = Both("Change to", "更换为")
    embedding_placeholder = Both("A folder or hub id", "本地目录或模型库 ID")
    change = Both("Change", "更换")
    changing = Both("Changing to {model}; searches go on meanwhile", "正在更换为 {model}，期间检索照常")
    change_failed = Both("Not changed to {model}: {why}", "未能更换为 {model}：{why}")
    of_passages = Both("{done} of {total} passages", "{done}/{total} 个段落")
    per_second = Both("{n} passages/s", "每秒 {n} 个段落")
    time_left = Both("{left} left", "剩余 {left}")
    minutes = Both("{m} min", "{m} 分钟")
    seconds = Both("{s} s", "{s} 秒")

    # Model panel
    model_panel = Both("Model", "模型")
    state_empty = Both("No model loaded", "未加载模型")
    state_empty_note = Both("Documents are answered by quoting them", "以引用原文回答文档问题")
    state_loading = Both("Loading", "正在加载")
    state_ready = Both("Ready", "就绪")
    state_asleep = Both("Ready, asleep until the next question", "就绪，休眠中，有提问时恢复")
    state_restarting = Both("Restarting", "正在重启")
    state_attention = Both("Needs attention", "需要注意")
    in_service_meanwhile = Both("{name} keeps answering meanwhile", "期间仍由 {name} 回答")
    in_flight = Both("{n} answering", "{n} 个回答进行中")
    waiting = Both("{n} in line", "{n} 个排队中")
    context = Both("{n} tokens of context", "上下文 {n} 词元")
    menu = Both("Choose a model", "选择模型")
    model_path = Both("Folder or hub id", "本地目录或模型库 ID")
    model_path_placeholder = Both(
        "/data/my-model or Qwen/Qwen2.5-0.5B-Instruct", "/data/my-model 或 Qwen/Qwen2.5-0.5B-Instruct"
    )
    options = Both("Loading options", "加载选项")
    model_type = Both("Model type", "模型类型")
    model_type_info = Both("Only if recognition is wrong", "仅在识别有误时填写")
    recognised = Both("recognise it", "自动识别")
    backend = Both("Backend", "推理后端")
    load = Both("Load", "加载")
    unload = Both("Unload", "卸载")
    no_path = Both(
        "Choose a model from the menu, or type a folder or hub id.", "请从菜单选择模型，或填写目录或模型库 ID。"
    )
    memory = Both("needs about {need:.1f} GiB · {free:.1f} GiB free", "约需 {need:.1f} GiB · 可用 {free:.1f} GiB")
    memory_parts = Both(
        "weights {:.1f}, context {:.1f}, engine {:.1f} GiB", "权重 {:.1f}、上下文 {:.1f}、引擎 {:.1f} GiB"
    )
    memory_short = Both(
        "needs about {need:.1f} GiB, but only {free:.1f} GiB are free",
        "约需 {need:.1f} GiB，但仅有 {free:.1f} GiB 可用",
    )
    memory_free = Both("{free:.1f} GiB of memory free", "可用内存 {free:.1f} GiB")
    log = Both("Engine log", "引擎日志")
    no_log = Both("The engine has not written anything yet.", "引擎还没有输出。")

    # Sampling
    sampling = Both("Parameters", "参数")
    sampling_info = Both("Leave a field empty for the model's own default", "留空则使用模型自身的默认值")
    system_prompt = Both("System prompt", "系统提示词")
    system_prompt_placeholder = Both("You are a helpful assistant.", "你是一个乐于助人的助手。")
    max_new_tokens = Both("Max new tokens", "最大新词元数")
    temperature = Both("Temperature", "温度")
    top_k = Both("Top-k", "Top-k")
    top_p = Both("Top-p", "Top-p")
    repetition_penalty = Both("Repetition penalty", "重复惩罚")
    seed = Both("Seed", "随机种子")
    greedy = Both("Greedy (always the likeliest token)", "贪心解码（总取概率最高的词元）")
    stop_texts = Both("Stop texts, one per line", "停止文本，每行一个")
    default = Both("default", "默认")

    separator = Both(", ", "，")

    def reason(self, reason: str) -> str:
        """The Chinese sentence for a closed-list reason of an unreadable file; "" where the error itself is shown."""
        return _REASONS.get(reason, "") if self.language == "zh" else ""

    def error(self, code: str, message: str) -> str:
        """A message of the error tree; on the Chinese page its kind is named in Chinese in front."""
        kind = _KINDS.get(code, "出错了") if self.language == "zh" else ""
        return f"{kind}：{message}" if kind else message

    def stage(self, stage: str) -> str:
        """The stage of a load as a word of the page; unknown stages are shown as they are."""
        return _STAGES.get(stage, stage) if self.language == "zh" else stage.replace("_", " ").capitalize()

    def role(self, role: str) -> str:
        return _ROLES.get(role, role) if self.language == "zh" else role


_ROLES = {"admin": "管理员", "user": "用户"}
_REASONS = {
    "encrypted": "文件有密码保护，请去除密码后重新上传。",
    "damaged": "文件已损坏，请重新导出后再上传。",
    "no_text": "文件中没有可读文字（可能是扫描件），请先做文字识别。",
    "unsupported": "不支持这种格式，请使用 txt、md、docx 或 pdf。",
    "unsafe": "文件内容不安全，未予读取。",
    "too_slow": "读取时间过长，请拆分后再上传。",
    "too_large": "文件过大，请拆分后再上传。",
    "empty": "文件是空的。",
    "cancelled": "已停止，重新上传即可再次处理。",
    "storage_full": "磁盘空间不足，请释放空间后重新读取。",
    "internal": "处理时出现意外错误，请重新上传；详情见服务器日志。",
}
_KINDS = {
    "invalid_request": "请求有误",
    "unauthorized": "未登录",
    "forbidden": "没有权限",
    "not_found": "未找到",
    "conflict": "冲突",
    "too_large": "超出上限",
    "storage_full": "磁盘空间不足",
    "busy": "繁忙",
    "not_ready": "模型尚未就绪",
    "no_model": "未加载模型",
    "model_unusable": "模型无法使用",
    "hub_unreachable": "模型库无法访问",
    "engine_failed": "引擎故障",
}
_STAGES = {
    "checking": "检查中",
    "resolving": "查找模型",
    "downloading": "下载中",
    "converting": "转换中",
    "starting": "启动引擎",
    "loading": "载入权重",
    "warming": "预热",
    "ready": "就绪",
}

ENGLISH = Texts("en")
CHINESE = Texts("zh")


def preferred(accept_language: str) -> Language:
    """The language a browser prefers, from its Accept-Language header; English unless Chinese is ranked higher."""
    ranked: list[tuple[float, Language]] = []
    for item in accept_language.lower().split(",")[:20]:
        tag, _, parameters = item.strip().partition(";")
        weight = parameters.strip().removeprefix("q=")
        try:
            quality = float(weight) if weight else 1.0
        except ValueError:
            continue
        if tag.split("-")[0] in ("zh", "en") and quality > 0:
            ranked.append((quality, "zh" if tag.startswith("zh") else "en"))
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else "en"
