"""The places that a run's options name, looked at before anything heavy is imported; loads no torch and says nothing.

Each is looked at again where it is opened, with all that is wrong inside. Here it is whether it is there at all.
"""

from yangtuo.config.settings import Settings
from yangtuo.data.readers import search
from yangtuo.errors import UsageError
from yangtuo.model.adapter_folder import check_adapter
from yangtuo.model.folders import check_place


def check_paths(settings: Settings) -> None:
    """Refuse the first place that is not there, in the order in which a run opens them.

    Raises:
        UserError: a folder or file is not there, or no base is named; names of hub models are not asked for.
    """
    model, data = settings.model, settings.data
    if not model.model_name_or_path:
        raise UsageError("--model_name_or_path is missing: the folder of the base model")
    check_place(model.model_name_or_path, option="model_name_or_path", must_hold=["config.json"])
    if settings.lora.peft_path:
        check_adapter(settings.lora.peft_path, is_optional=True)
    if model.tokenizer_name_or_path:
        needed = ["tokenizer.model", "tokenizer.json"]
        check_place(model.tokenizer_name_or_path, option="tokenizer_name_or_path", must_hold=needed)
    named = {name: str(getattr(data, name) or "") for name in ("validation_file", "train_file", "dataset_dir")}
    if named["train_file"]:
        del named["dataset_dir"]  # the other wins
    for option, places in named.items():
        if places:
            search.find_files(places, option=option, recursive=data.include_subfolders)
