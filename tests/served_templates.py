"""Short chat templates that behave as those of today's models: thoughts, tools, and what ends an answer."""
# ruff: noqa: E501

# Thoughts stay behind the last question alone; without one, an empty block. Tools in <tool_call>.
_QWEN_TURNS = """{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}
{%- endif %}{{- 'Tools:' }}{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}{{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}{{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif m.role == 'assistant' %}
{%- set said, thought = m.content, '' %}
{%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
{%- elif '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set said = said.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last or KEEPS %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
{{- said }}
{%- for call in m.tool_calls or [] %}{%- if said or not loop.first %}{{- '\\n' }}{%- endif %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
{{- '}\\n</tool_call>' }}{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}PROMPT{%- endif %}"""
_CLOSED = "{{- '<think>\\n\\n</think>\\n\\n' }}"
_OFF = "enable_thinking is defined and enable_thinking is false"


def _qwen(prompt, keeps="false"):
    return _QWEN_TURNS.replace("PROMPT", prompt).replace("KEEPS", keeps)


QWEN3 = _qwen(f"{{%- if {_OFF} %}}{_CLOSED}{{%- endif %}}")
QWEN3_THINKING = _qwen("{{- '<think>\\n' }}")
QWEN35 = _qwen(f"{{%- if {_OFF} %}}{_CLOSED}{{%- else %}}{{{{- '<think>\\n' }}}}{{%- endif %}}")
QWEN35_OFF = _qwen(  # thinks only where it is asked for
    "{%- if enable_thinking is defined and enable_thinking %}{{- '<think>\\n' }}{%- else %}" + _CLOSED + "{%- endif %}"
)
# Thoughts of all turns stay; one in the text is no thought.
QWEN38 = _qwen("{{- '<think>\\n' }}", keeps="true").replace("'</think>' in said", "false")

# A thought is left out wherever it stands; the prompt opens the block.
R1 = (
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}"
    "{%- elif m.role == 'system' %}{{- m.content }}"
    "{%- else %}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}"
)
# Past answers stand behind the end of a block; arguments of calls are texts.
DEEPSEEK_V31 = (
    "{%- if not thinking is defined %}{%- set thinking = false %}{%- endif %}{{- bos_token }}"
    "{%- for tool in tools or [] %}{{- tool.function.name + '\\n' }}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}"
    "{%- elif m.role == 'system' %}{{- m.content }}"
    "{%- elif m.role == 'tool' %}{{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}"
    "{%- elif m.content is none %}{{- '<｜Assistant｜></think>' }}{%- for call in m.tool_calls %}"
    "{{- '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' + call.function.arguments }}"
    "{{- '<｜tool▁call▁end｜>' }}{%- endfor %}{{- '<｜end▁of▁sentence｜>' }}"
    "{%- else %}{%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<｜Assistant｜></think>' }}{%- endif %}"
    "{{- m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt and messages[-1].role == 'user' %}"
    "{{- '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{%- endif %}"
)
# Nothing ends an answer but the token that begins the next turn.
GLM45 = """{{- '[gMASK]<sop>' }}
{%- if tools %}{{- '<|system|>\\nTools:' }}{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<|user|>\\n' + m.content }}
{%- elif m.role == 'system' %}{{- '<|system|>\\n' + m.content }}
{%- elif m.role == 'tool' %}{{- '<|observation|>\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- else %}{{- '<|assistant|>\\n' }}
{%- set said, thought = m.content, m.reasoning_content or '' %}
{%- if '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1] %}{%- set said = said.split('</think>')[-1] %}{%- endif %}
{{- '<think>' + (thought.strip() if loop.index0 > ns.last else '') + '</think>' }}
{%- if said.strip() %}{{- '\\n' + said.strip() }}{%- endif %}
{%- for call in m.tool_calls or [] %}{{- '\\n<tool_call>' + call.function.name + '\\n' }}
{%- for key, value in call.function.arguments.items() %}
{{- '<arg_key>' + key + '</arg_key>\\n<arg_value>' + value + '</arg_value>\\n' }}{%- endfor %}
{{- '</tool_call>' }}{%- endfor %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '\\n<think></think>' }}{%- endif %}{%- endif %}"""
# Texts alone: nothing ends an answer at all.
MINICPM = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<用户>' + m.content.strip() + '<AI>' }}"
    "{% else %}{{ m.content.strip() }}{% endif %}{% endfor %}"
)
# The empty block stands behind everything, asked for or not.
HUNYUAN = (
    "{%- for m in messages %}{%- if m.role == 'user' %}{{- '<|startoftext|>' + m.content + '<|extra_0|>' }}"
    "{%- elif m.role == 'system' %}{{- m.content + '<|extra_4|>' }}{%- else %}{{- m.content + '<|eos|>' }}"
    "{%- endif %}{%- endfor %}{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n' }}{%- endif %}"
)
ERNIE45 = (
    "{{- '<|begin_of_sentence|>' }}{%- for m in messages %}{%- if m.role == 'user' %}{{- 'User: ' + m.content + '\\n' }}"
    "{%- elif m.role == 'system' %}{{- m.content + '\\n' }}"
    "{%- else %}{{- 'Assistant: ' + m.content + '<|end_of_sentence|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'Assistant: ' }}{%- endif %}"
)
INTERNLM3 = (
    "{{ bos_token }}{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Tool results as JSON, and a call alone or a text alone.
LLAMA31 = (
    "{{- bos_token }}{%- if tools %}{{- tools | tojson }}{%- endif %}{%- for m in messages %}"
    "{%- if m.role == 'tool' or m.role == 'ipython' %}{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}"
    "{{- m.content | tojson + '<|eot_id|>' }}"
    "{%- else %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{%- if m.tool_calls %}{%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}"
    "{%- set call = m.tool_calls[0].function %}"
    "{{- {'name': call.name, 'parameters': call.arguments} | tojson }}"
    "{%- else %}{{- m.content | trim }}{%- endif %}{{- '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
# Calls have to have ids of nine characters.
MISTRAL = (
    "{{- bos_token }}{%- if tools %}{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}"
    "{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}"
    "{%- elif m.tool_calls %}{{- '[TOOL_CALLS]' }}{%- for call in m.tool_calls %}"
    "{%- if call.id is not defined or call.id | length != 9 %}{{- raise_exception('ids of nine characters') }}{%- endif %}"
    "{{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}{%- endfor %}"
    "{{- eos_token }}{%- else %}{{- m.content + eos_token }}{%- endif %}{%- endfor %}"
)
# At the end of the text, its own end stands behind that of the answer.
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{{ m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
SMOLLM = INTERNLM3.replace("{{ bos_token }}", "")
SEED = (
    "{%- for m in messages %}{{- bos_token + m.role + '\\n' }}"
    "{%- if m.reasoning_content is string %}{{- '<seed:think>' + m.reasoning_content + '</seed:think>\\n' }}{%- endif %}"
    "{{- m.content + eos_token }}{%- endfor %}{%- if add_generation_prompt %}{{- bos_token + 'assistant\\n' }}{%- endif %}"
)

ALL = {
    **{"qwen3": QWEN3, "qwen3 thinking": QWEN3_THINKING, "qwen3.5": QWEN35, "qwen3.5 off": QWEN35_OFF},
    **{"qwen3.8": QWEN38, "r1": R1, "deepseek v3.1": DEEPSEEK_V31, "glm-4.5": GLM45, "minicpm": MINICPM},
    **{"hunyuan": HUNYUAN, "ernie-4.5": ERNIE45, "internlm3": INTERNLM3, "llama 3.1": LLAMA31, "mistral": MISTRAL},
    **{"phi-3": PHI3, "gemma": GEMMA, "smollm": SMOLLM, "seed-oss": SEED},
}
CONTROLS = (
    *("<|im_start|>", "<|im_end|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "[gMASK]", "<sop>"),
    *("<|user|>", "<|assistant|>", "<|observation|>", "<|system|>", "<|startoftext|>", "<|extra_0|>", "<|extra_4|>"),
    *("<|eos|>", "<|begin_of_sentence|>", "<|end_of_sentence|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|end|>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<｜tool▁call▁begin｜>"),
    *("<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
)
WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<seed:think>", "</seed:think>")  # added, not special
