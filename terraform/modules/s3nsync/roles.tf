# --- one role for each job ------------------------------------------------------------------------------------------
# intake: the function. worker: the task. execution: what ECS does before the task's first instruction. With a schedule
# for it, verify: the task that compares both sides, and scheduler: what starts that task. Each has one policy, with only the actions and ARNs that it needs. The region is in the names because IAM knows none. ARNs are put
# together, not asked of the resources: else a plan that changes a queue could not say what becomes of the policies.

locals {
  roles = merge( # and who takes them on
    {
      intake    = "lambda.amazonaws.com"
      worker    = "ecs-tasks.amazonaws.com"
      execution = "ecs-tasks.amazonaws.com"
    },
    local.verifies ? { verify = "ecs-tasks.amazonaws.com", scheduler = "scheduler.amazonaws.com" } : {},
  )
}

resource "aws_iam_role" "this" {
  for_each = local.roles

  name               = "${var.name}-${local.region}-${each.key}"
  description        = "s3nsync deployment ${var.name}: ${each.key}"
  assume_role_policy = data.aws_iam_policy_document.assume[each.key].json

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_iam_policy" "this" {
  for_each = local.roles

  name        = "${var.name}-${local.region}-${each.key}"
  description = "s3nsync deployment ${var.name}: what ${each.key} may do"
  policy = {
    intake    = data.aws_iam_policy_document.intake.json
    worker    = data.aws_iam_policy_document.worker.json
    execution = data.aws_iam_policy_document.execution.json
    verify    = data.aws_iam_policy_document.verify.json
    scheduler = data.aws_iam_policy_document.scheduler.json
  }[each.key]

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_iam_role_policy_attachment" "this" {
  for_each = local.roles

  role       = aws_iam_role.this[each.key].name
  policy_arn = aws_iam_policy.this[each.key].arn
}

data "aws_iam_policy_document" "assume" {
  for_each = local.roles

  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = [each.value]
    }

    # ECS says for whom it asks when a task takes on its role, and the scheduler does; AWS documents that for no other.
    dynamic "condition" {
      for_each = contains(["worker", "verify", "scheduler"], each.key) ? [local.account] : []
      content {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [condition.value]
      }
    }
  }
}

# --- intake: queue changes, bury what nobody understands, empty the failure queue -----------------------------------

data "aws_iam_policy_document" "intake" {
  statement {
    sid       = "QueueAndBury"
    actions   = ["sqs:SendMessage"]
    resources = [local.queue_arns.live, local.queue_arns.dead, local.queue_arns.failure]
  }
  statement {
    sid       = "EmptyTheFailureQueue"
    actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage"]
    resources = [local.queue_arns.failure]
  }
  statement {
    sid       = "EncryptedQueues"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"] # SQS wants both of a sender: it checks the data key
    resources = [local.kms_key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["sqs.${local.region}.amazonaws.com"]
    }
  }
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${local.log_group_arns.intake}:*"]
  }
}

# --- worker: read the routes' keys, work the queues -----------------------------------------------------------------

locals {
  # IAM takes no characters beyond Latin-1, and reads ${ as the beginning of a variable: a wildcard stands for them.
  routes_keys = distinct([
    for route in var.routes :
    "${data.aws_s3_bucket.source[route.bucket].arn}/${replace(route.prefix, "/[^\\x{20}-\\x{ff}]+|\\$/", "*")}*"
  ])
}

data "aws_iam_policy_document" "worker" {
  statement {
    sid       = "ReadTheRoutesKeys"
    actions   = ["s3:GetObject"]
    resources = local.routes_keys
  }
  statement {
    # Without it S3 answers 403 for a key that is not there, and no delete could be told from a refusal. A condition on
    # s3:prefix would have the same effect: the question for one key carries no prefix.
    sid       = "LetMissingMeanMissing"
    actions   = ["s3:ListBucket"]
    resources = [for bucket in data.aws_s3_bucket.source : bucket.arn]
  }
  statement {
    sid       = "LookAtTheWiring" # for `s3nsync doctor`, run as a task of its own
    actions   = ["s3:GetBucketNotification"]
    resources = [for bucket in data.aws_s3_bucket.source : bucket.arn]
  }
  statement {
    sid = "WorkTheQueues" # and send: what is not one change of one key is sent home to its key's group
    actions = [
      "sqs:ReceiveMessage",
      "sqs:ChangeMessageVisibility",
      "sqs:DeleteMessage",
      "sqs:SendMessage",
      "sqs:GetQueueAttributes",
    ]
    resources = [local.queue_arns.live, local.queue_arns.bulk, local.queue_arns.check]
  }
  statement {
    sid       = "Bury"
    actions   = ["sqs:SendMessage", "sqs:GetQueueAttributes"]
    resources = [local.queue_arns.dead]
  }
  statement {
    sid       = "EncryptedQueues"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = [local.kms_key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["sqs.${local.region}.amazonaws.com"]
    }
  }
  dynamic "statement" {
    for_each = length(var.bucket_kms_key_arns) > 0 ? [var.bucket_kms_key_arns] : []
    content {
      sid       = "EncryptedObjects"
      actions   = ["kms:Decrypt"]
      resources = statement.value
      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["s3.${local.region}.amazonaws.com"]
      }
    }
  }
}

# --- execution: fetch the image, hand over the secret, open the log -------------------------------------------------

locals {
  # The repository to pull from: our own, or that of the image given; an image outside ECR needs none.
  given_repository = try(regex("^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.[a-z.]+/([^:@]+)", var.image), null)
  pulled_repository_arns = (
    var.image == null ? ["arn:${local.partition}:ecr:${local.region}:${local.account}:repository/${var.name}"] :
    local.given_repository == null ? [] :
    ["arn:${local.partition}:ecr:${local.given_repository[1]}:${local.given_repository[0]}:repository/${local.given_repository[2]}"]
  )
}

data "aws_iam_policy_document" "execution" {
  #checkov:skip=CKV_AWS_356: ecr:GetAuthorizationToken knows no resource
  dynamic "statement" {
    for_each = length(local.pulled_repository_arns) > 0 ? [local.pulled_repository_arns] : []
    content {
      sid       = "PullTheImage"
      actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      resources = statement.value
    }
  }
  dynamic "statement" {
    for_each = length(local.pulled_repository_arns) > 0 ? [1] : []
    content {
      sid       = "LogInToTheRegistry"
      actions   = ["ecr:GetAuthorizationToken"]
      resources = ["*"]
    }
  }
  statement {
    sid       = "HandOverTheSecret"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = values(local.secret_arns)
  }
  statement {
    sid       = "EncryptedSecret"
    actions   = ["kms:Decrypt"]
    resources = [local.kms_key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${local.region}.amazonaws.com"]
    }
  }
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${local.log_group_arns.worker}:*"]
  }
}

# --- operator: a person who reads dead letters and has them looked at again -----------------------------------------
# Only a document, for the role that this person has: an output. The workers cannot take from the dead-letter queue.

data "aws_iam_policy_document" "operator" {
  statement {
    sid       = "ReadAndRemoveDeadLetters" # SQS has no way to look without taking
    actions   = ["sqs:ReceiveMessage", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage"]
    resources = [local.queue_arns.dead]
  }
  statement {
    sid       = "HaveThemLookedAtAgain"
    actions   = ["sqs:SendMessage"]
    resources = [local.queue_arns.bulk]
  }
  statement {
    sid       = "EncryptedQueues"
    actions   = ["kms:GenerateDataKey", "kms:Decrypt"]
    resources = [local.kms_key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["sqs.${local.region}.amazonaws.com"]
    }
  }
}
