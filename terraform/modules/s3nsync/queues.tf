# --- three FIFO queues by key, one FIFO dead-letter queue, one standard queue for failed calls ----------------------
# Each is FIFO by key (the group) and high-throughput: both limits must be per group, else SQS quietly falls back to
# 300 calls a second. Policies name the queue by an ARN put together here, so that they are part of the queue.

locals {
  queue_names = {
    live    = "${var.name}.fifo"
    bulk    = "${var.name}-bulk.fifo"
    check   = "${var.name}-check.fifo"
    dead    = "${var.name}-dead.fifo"
    failure = "${var.name}-failure"
  }
  queue_arns = {
    for queue, name in local.queue_names : queue => "arn:${local.partition}:sqs:${local.region}:${local.account}:${name}"
  }

  retention_s = 1209600 # 14 days, SQS's most

  # A message comes here only when it killed worker after worker: the worker buries by its own rules long before.
  redrive_policy = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead.arn, maxReceiveCount = 300 })
}

resource "aws_sqs_queue" "live" {
  name                       = local.queue_names.live
  fifo_queue                 = true
  deduplication_scope        = "messageGroup"
  fifo_throughput_limit      = "perMessageGroupId"
  visibility_timeout_seconds = local.lease_s
  receive_wait_time_seconds  = 20
  message_retention_seconds  = local.retention_s
  kms_master_key_id          = local.kms_key_arn
  redrive_policy             = local.redrive_policy
  policy                     = data.aws_iam_policy_document.queue["live"].json
}

# Backfill, repair and retried entries: served only in slots that live events leave free.
resource "aws_sqs_queue" "bulk" {
  name                       = local.queue_names.bulk
  fifo_queue                 = true
  deduplication_scope        = "messageGroup"
  fifo_throughput_limit      = "perMessageGroupId"
  visibility_timeout_seconds = local.lease_s
  receive_wait_time_seconds  = 20
  message_retention_seconds  = local.retention_s
  kms_master_key_id          = local.kms_key_arn
  redrive_policy             = local.redrive_policy
  policy                     = data.aws_iam_policy_document.queue["bulk"].json
}

# The worker's second looks, not before the grace is over: FIFO queues know a delay for the whole queue only.
resource "aws_sqs_queue" "check" {
  name                       = local.queue_names.check
  fifo_queue                 = true
  deduplication_scope        = "messageGroup"
  fifo_throughput_limit      = "perMessageGroupId"
  delay_seconds              = local.grace_s
  visibility_timeout_seconds = local.lease_s
  receive_wait_time_seconds  = 20
  message_retention_seconds  = local.retention_s
  kms_master_key_id          = local.kms_key_arn
  redrive_policy             = local.redrive_policy
  policy                     = data.aws_iam_policy_document.queue["check"].json
}

# What will never work, with the reason; an alarm says when it holds something.
resource "aws_sqs_queue" "dead" {
  name                       = local.queue_names.dead
  fifo_queue                 = true
  deduplication_scope        = "messageGroup"
  fifo_throughput_limit      = "perMessageGroupId"
  visibility_timeout_seconds = local.lease_s
  message_retention_seconds  = local.retention_s
  kms_master_key_id          = local.kms_key_arn
  policy                     = data.aws_iam_policy_document.queue["dead"].json

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_sqs_queue_redrive_allow_policy" "dead" {
  queue_url = aws_sqs_queue.dead.url
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.bulk.arn, aws_sqs_queue.check.arn, aws_sqs_queue.live.arn]
  })
}

# Standard, because Lambda and EventBridge deliver their failures to no other kind.
resource "aws_sqs_queue" "failure" {
  name                       = local.queue_names.failure
  visibility_timeout_seconds = 360 # six times the function's time-out, as AWS advises
  message_retention_seconds  = local.retention_s
  kms_master_key_id          = local.kms_key_arn
  policy                     = data.aws_iam_policy_document.queue["failure"].json

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

data "aws_iam_policy_document" "queue" {
  for_each = local.queue_arns

  statement {
    sid       = "OnlyOverTls"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [each.value]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  # EventBridge has no role to deliver dead letters with; our own roles need no statement here.
  dynamic "statement" {
    for_each = each.key == "failure" && local.by_eventbridge ? [local.buckets] : []
    content {
      sid       = "DeadLettersOfEventBridge"
      actions   = ["sqs:SendMessage"]
      resources = [each.value]
      principals {
        type        = "Service"
        identifiers = ["events.amazonaws.com"]
      }
      condition {
        test     = "ArnLike"
        variable = "aws:SourceArn"
        values   = ["arn:${local.partition}:events:${local.region}:${local.account}:rule/${var.name}-s3-*"]
      }
    }
  }
}
