#!/usr/bin/env bash
# Instruction tuning with LoRA. Edit the block below, then: bash run_sft.sh
# As shipped it runs the demo. Every value can also come from the environment: lr=2e-4 bash run_sft.sh

########参数部分########
lr=${lr-1e-4}
lora_rank=${lora_rank-8}
lora_alpha=${lora_alpha-32}
lora_trainable=${lora_trainable-"q_proj,v_proj,k_proj,o_proj,gate_proj,down_proj,up_proj"}
modules_to_save=${modules_to_save-"embed_tokens,lm_head"}   # 显存紧张时留空 / leave empty to save memory
lora_dropout=${lora_dropout-0.05}

pretrained_model=${pretrained_model-}                 # 留空则运行演示 / empty: the demo runs
chinese_tokenizer_path=${chinese_tokenizer_path-}     # 留空则用模型自带的 / empty: the model's own
dataset_dir=${dataset_dir-}
per_device_train_batch_size=${per_device_train_batch_size-1}
per_device_eval_batch_size=${per_device_eval_batch_size-1}
training_steps=${training_steps-100}
gradient_accumulation_steps=${gradient_accumulation_steps-1}
output_dir=${output_dir-output_dir}
peft_model=${peft_model-}                             # 继续训练的LoRA目录 / an adapter to continue
validation_file=${validation_file-}                   # 留空则从训练数据中划出 / empty: split off the training rows

deepspeed_config_file=${deepspeed_config_file-}       # ds_zero2_no_offload.json

# 多机多卡 / several machines
num_nodes=${num_nodes-1}
num_gpu_per_node=${num_gpu_per_node-1}
node_rank=${node_rank-0}
master_addr=${master_addr-}
master_port=${master_port-}
max_restarts=${max_restarts-0}                        # 进程死掉后自动重启续训的次数 / times to restart and go on by itself

dry_run=${dry_run-}                                   # 不为空则只打印命令 / not empty: only print the command

########启动命令########
set -euo pipefail
scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$scripts/setup.sh"

run=exec
[ -z "$dry_run" ] || run='printf %s\n' # one word a line

if [ -z "$pretrained_model" ]; then
    say "pretrained_model is empty, so the demo runs: SmolLM2-135M on src/yangtuo/demo_data. Edit the block at the top of $0 for your own model." \
        "pretrained_model 为空，因此运行演示：用 src/yangtuo/demo_data 里的数据训练 SmolLM2-135M。要用自己的模型，请修改 $0 开头的参数部分。"
    $run yangtuo demo --output_dir "$output_dir"
    exit
fi

# An empty optional value drops its flag.
optional() { if [ -n "$2" ]; then flags+=("$1" "$2"); fi; }
flags=()
[ -f "$deepspeed_config_file" ] || [ -z "$deepspeed_config_file" ] || deepspeed_config_file="$scripts/$deepspeed_config_file"
optional --deepspeed "$deepspeed_config_file"
optional --tokenizer_name_or_path "$chinese_tokenizer_path"
optional --lora_rank "$lora_rank"
optional --lora_alpha "$lora_alpha"
optional --trainable "$lora_trainable"
optional --modules_to_save "$modules_to_save"
optional --lora_dropout "$lora_dropout"
optional --validation_file "$validation_file"
optional --peft_path "$peft_model"

# --standalone finds a free port by itself; with several machines, all of them meet at master_addr:master_port.
# Restarted processes find each other again only in the c10d way of meeting, where torchrun itself numbers the machines.
if [ -n "$master_addr" ] && [ "$max_restarts" -gt 0 ]; then
    meeting=(--nnodes "$num_nodes" --rdzv_backend c10d --rdzv_endpoint "$master_addr:${master_port:-29500}" --rdzv_id "yangtuo-${master_port:-29500}")
elif [ -n "$master_addr" ]; then
    meeting=(--nnodes "$num_nodes" --node_rank "$node_rank" --master_addr "$master_addr" --master_port "${master_port:-29500}")
elif [ "$num_nodes" -gt 1 ]; then
    say "run_sft.sh: num_nodes=$num_nodes needs master_addr, the address of the machine with node_rank=0" \
        "run_sft.sh：num_nodes=${num_nodes} 需要 master_addr，即 node_rank=0 那台机器的地址" >&2
    exit 2
else
    meeting=(--standalone --nnodes 1)
fi

# torchrun, but with the exit code and the message of the process that failed in place of a stack trace.
$run python -m yangtuo.cli.torchrun "${meeting[@]}" --max_restarts "$max_restarts" --nproc_per_node "$num_gpu_per_node" "$scripts/run_clm_sft_with_peft.py" \
    --model_name_or_path "$pretrained_model" \
    --dataset_dir "$dataset_dir" \
    --validation_split_percentage 0.001 \
    --per_device_train_batch_size "$per_device_train_batch_size" \
    --per_device_eval_batch_size "$per_device_eval_batch_size" \
    --do_train \
    --do_eval \
    --seed $RANDOM \
    --fp16 \
    --max_steps "$training_steps" \
    --lr_scheduler_type cosine \
    --learning_rate "$lr" \
    --warmup_ratio 0.03 \
    --weight_decay 0 \
    --logging_strategy steps \
    --logging_steps 10 \
    --save_strategy steps \
    --save_total_limit 3 \
    --evaluation_strategy steps \
    --eval_steps 250 \
    --save_steps 500 \
    --gradient_accumulation_steps "$gradient_accumulation_steps" \
    --preprocessing_num_workers 8 \
    --max_seq_length 512 \
    --output_dir "$output_dir" \
    --overwrite_output_dir \
    --ddp_timeout 30000 \
    --logging_first_step True \
    --torch_dtype float16 \
    --gradient_checkpointing \
    --ddp_find_unused_parameters False \
    ${flags[@]+"${flags[@]}"}
