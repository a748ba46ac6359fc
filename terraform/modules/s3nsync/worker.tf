# --- cluster --------------------------------------------------------------------------------------------------------

resource "aws_ecs_cluster" "this" {
  name = var.name

  setting {
    name  = "containerInsights" # scaling divides by its count of running tasks
    value = "enabled"
  }

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

# --- task -----------------------------------------------------------------------------------------------------------

locals {
  worker_environment = merge(
    var.worker_environment,
    {
      S3NSYNC_LOG_FORMAT        = "json" # the metrics are in the log
      S3NSYNC_REGION            = local.region
      S3NSYNC_ROUTES            = local.routes_json
      S3NSYNC_LIVE_QUEUE_URL    = aws_sqs_queue.live.url
      S3NSYNC_BULK_QUEUE_URL    = aws_sqs_queue.bulk.url
      S3NSYNC_CHECK_QUEUE_URL   = aws_sqs_queue.check.url
      S3NSYNC_DEAD_QUEUE_URL    = aws_sqs_queue.dead.url
      S3NSYNC_WORKER_LEASE_S    = tostring(local.lease_s)
      S3NSYNC_WORKER_GRACE_S    = tostring(local.grace_s)
      S3NSYNC_METRICS_NAMESPACE = "s3nsync"
      S3NSYNC_METRICS_SERVICE   = var.name
    },
  )

  # A task reads the secret at its start only. So a new version makes a new revision, and that starts new tasks.
  worker_labels = { "s3nsync.secret-version" = tostring(var.secret_version) }

  # What every task of ours runs: the image, confined, with its settings, its secrets and its log.
  container = {
    name      = "worker"
    image     = local.image
    essential = true

    user = "10001:10001"
    linuxParameters = {
      initProcessEnabled = true # process 1 would ignore SIGTERM until Python has set its handler
      capabilities       = { drop = ["ALL"] }
    }

    stopTimeout  = 120 # Fargate's most; the worker's own drain ends within it
    dockerLabels = local.worker_labels

    environment = [for name, value in local.worker_environment : { name = name, value = value }]
    secrets = [
      for account, arn in local.secret_arns :
      { name = account == "default" ? "NS_SECRET" : "NS_SECRET_${upper(account)}", valueFrom = arn }
    ]
  }
  log_options = {
    awslogs-group  = aws_cloudwatch_log_group.this["worker"].name
    awslogs-region = local.region
  }
}

resource "aws_ecs_task_definition" "worker" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = aws_iam_role.this["worker"].arn
  execution_role_arn       = aws_iam_role.this["execution"].arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  container_definitions = jsonencode([merge(local.container, {
    command                = ["run"]
    readonlyRootFilesystem = true # nothing is spooled, and health needs no file
    healthCheck = {
      command     = ["CMD", "python3", "-m", "s3nsync.health"] # a tenth of the cost of `s3nsync health`
      interval    = 30
      timeout     = 5
      retries     = 3
      startPeriod = 60
    }
    logConfiguration = {
      logDriver = "awslogs"
      options   = merge(local.log_options, { awslogs-stream-prefix = "worker" })
    }
  })])
}

# --- service --------------------------------------------------------------------------------------------------------

resource "aws_ecs_service" "worker" {
  name                 = var.name
  cluster              = aws_ecs_cluster.this.id
  task_definition      = aws_ecs_task_definition.worker.arn
  desired_count        = var.min_tasks
  force_new_deployment = true # ECS takes a changed capacity provider only with a new deployment
  propagate_tags       = "SERVICE"

  capacity_provider_strategy {
    capacity_provider = var.spot ? "FARGATE_SPOT" : "FARGATE"
    weight            = 1
  }

  network_configuration {
    subnets          = local.subnet_ids
    security_groups  = [aws_security_group.worker.id]
    assign_public_ip = false
  }

  # Old and new may work side by side: the queues see to it that no key has two workers.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  lifecycle {
    ignore_changes = [desired_count] # scaling's business from here on
  }

  # A task must find its image, its secret and its permissions.
  depends_on = [
    aws_ecs_cluster_capacity_providers.this,
    aws_iam_role_policy_attachment.this,
    aws_secretsmanager_secret_version.this,
    aws_vpc_security_group_egress_rule.https,
    aws_route_table_association.this,
    terraform_data.image,
  ]
}
