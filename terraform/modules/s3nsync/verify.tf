# --- proof on a schedule --------------------------------------------------------------------------------------------
# Every so many hours a task compares all routes and leaves: `s3nsync verify`. It may read the buckets and nothing more,
# repairs nothing, and writes its findings to the worker's log group, its figures among them. Two alarms listen: that
# something differs, and that no verify came to its end.

locals {
  verifies    = var.operations.verify_every_hours != null
  verify_name = "${var.name}-verify"

  verify_alarms = { for name, alarm in {
    verify-differences = {
      means     = "The last verify found objects that are missing on NetStorage, differ, or are not in S3. The worker's log group names them, in the streams that begin with verify; `s3nsync verify --repair` mends them."
      metric    = "verify_differences"
      statistic = "Maximum", comparison = "GreaterThanThreshold", bound = 0, hours = 1
      missing   = "ignore" # until the next verify says otherwise
    }
    verify-missing = {
      means     = "No verify came to its end within twice its period. The worker's log group says why, in the streams that begin with verify."
      metric    = "verify_runs"
      statistic = "Sum", comparison = "LessThanThreshold", bound = 1, hours = 2 * coalesce(var.operations.verify_every_hours, 0)
      missing   = "breaching"
    }
  } : name => alarm if local.verifies }

  verify_panels = [for panel in [
    {
      title = "Verify: what differs, and what cannot be told", stat = "Maximum"
      metrics = [
        for metric in ["verify_missing", "verify_extra", "verify_different", "verify_unverifiable"] :
        ["s3nsync", metric, "Service", var.name]
      ]
    },
    {
      title = "Verify: objects, and how long it took (s)", stat = "Maximum"
      metrics = [
        ["s3nsync", "verify_keys", "Service", var.name],
        ["s3nsync", "verify_seconds", "Service", var.name, { yAxis = "right" }],
      ]
    },
  ] : panel if local.verifies]
}

resource "aws_ecs_task_definition" "verify" {
  #checkov:skip=CKV_AWS_336: a directory of more files than memory should hold is sorted in a temporary file
  count = local.verifies ? 1 : 0

  family                   = local.verify_name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = aws_iam_role.this["verify"].arn
  execution_role_arn       = aws_iam_role.this["execution"].arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  container_definitions = jsonencode([merge(local.container, {
    command = ["verify", "--json"]
    logConfiguration = {
      logDriver = "awslogs"
      options   = merge(local.log_options, { awslogs-stream-prefix = "verify" })
    }
  })])
}

resource "aws_scheduler_schedule" "verify" {
  #checkov:skip=CKV_AWS_297: it holds nothing but names of ours
  count = local.verifies ? 1 : 0

  name                = local.verify_name
  description         = "Compares both sides of every route of ${var.name}"
  schedule_expression = "rate(${var.operations.verify_every_hours} hour${var.operations.verify_every_hours == 1 ? "" : "s"})"

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_ecs_cluster.this.arn
    role_arn = aws_iam_role.this["scheduler"].arn

    ecs_parameters {
      task_definition_arn = aws_ecs_task_definition.verify[0].arn
      launch_type         = "FARGATE"
      network_configuration {
        subnets          = local.subnet_ids
        security_groups  = [aws_security_group.worker.id]
        assign_public_ip = false
      }
    }

    # What cannot be started within the hour is left to the next time; the alarm looks back over two.
    retry_policy {
      maximum_event_age_in_seconds = 3600
      maximum_retry_attempts       = 10
    }
  }

  # As for the service: a task must find its image, its secret and its permissions.
  depends_on = [
    aws_iam_role_policy_attachment.this,
    aws_secretsmanager_secret_version.this,
    aws_vpc_security_group_egress_rule.https,
    aws_route_table_association.this,
    terraform_data.image,
  ]
}

resource "aws_cloudwatch_metric_alarm" "verify" {
  for_each = local.verify_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.means
  namespace           = "s3nsync"
  metric_name         = each.value.metric
  dimensions          = { Service = var.name }
  statistic           = each.value.statistic
  comparison_operator = each.value.comparison
  threshold           = each.value.bound
  period              = 3600
  evaluation_periods  = each.value.hours
  treat_missing_data  = each.value.missing
  alarm_actions       = [local.alarm_topic_arn]
  ok_actions          = [local.alarm_topic_arn]

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

# --- verify: read the routes' keys ----------------------------------------------------------------------------------

data "aws_iam_policy_document" "verify" {
  statement {
    sid       = "LookAtTheRoutesKeys"
    actions   = ["s3:GetObject"] # a HEAD asks for it too
    resources = local.routes_keys
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [for bucket in data.aws_s3_bucket.source : bucket.arn]
  }
  dynamic "statement" {
    for_each = length(var.bucket_kms_key_arns) > 0 ? [var.bucket_kms_key_arns] : []
    content {
      sid       = "EncryptedObjects" # S3 wants it of whoever asks for a checksum
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

# --- scheduler: start that task, as what it is ----------------------------------------------------------------------

data "aws_iam_policy_document" "scheduler" {
  statement {
    sid       = "StartVerify"
    actions   = ["ecs:RunTask"]
    resources = ["arn:${local.partition}:ecs:${local.region}:${local.account}:task-definition/${local.verify_name}:*"]
    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = ["arn:${local.partition}:ecs:${local.region}:${local.account}:cluster/${var.name}"]
    }
  }
  statement {
    sid     = "WithItsRoles"
    actions = ["iam:PassRole"]
    resources = [
      for job in ["verify", "execution"] :
      "arn:${local.partition}:iam::${local.account}:role/${var.name}-${local.region}-${job}"
    ]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }
}
