# S3 events -> intake (Lambda) -> SQS FIFO -> worker (ECS Fargate) -> Akamai NetStorage.
#
# One file for each part, in the order of the flow: events, intake, queues, worker, scaling; beside them secret, network,
# image, roles, encryption and operations. This one holds what all of them share: names, and the checks that must pass
# before anything is written.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  account   = data.aws_caller_identity.this.account_id
  partition = data.aws_partition.this.partition
  region    = data.aws_region.this.name

  repository_root = "${path.module}/../../.."

  # What Lambda and worker get: the routes as they were written, without what was left out.
  routes_json = jsonencode([
    for route in var.routes : { for key, value in route : key => value if value != null && value != "" }
  ])
  buckets = toset(var.routes[*].bucket)

  # A message's lease and the time after which nothing that was sent can still land: queues and worker must agree on them.
  lease_s = 300
  grace_s = 180
}

# --- the buckets: found, never made ---------------------------------------------------------------------------------

data "aws_s3_bucket" "source" {
  for_each = local.buckets
  bucket   = each.key

  lifecycle {
    postcondition {
      condition     = self.region == local.region
      error_message = "Bucket ${each.key} is in ${self.region}, and this deployment in ${local.region}: S3 notifies only within a region. Set region to ${self.region}, or make one deployment for each region."
    }
  }
}

# --- what Terraform cannot tell, asked before anything is written ---------------------------------------------------
# The provider cannot read a bucket's notifications or a route table's endpoints; the AWS command line can. Whether routes
# go together is for the product's own reader to say. Everything that may have no other dependency depends on these three,
# so a refusal leaves nothing behind.

resource "terraform_data" "routes_are_sound" {
  triggers_replace = [local.routes_json]

  provisioner "local-exec" {
    command = "python3 '${path.module}/scripts/preflight.py' routes"
    environment = {
      PREFLIGHT_ROUTES  = local.routes_json
      PREFLIGHT_SOURCES = "${local.repository_root}/src"
    }
  }

  lifecycle {
    precondition {
      # IAM User Guide, "IAM and AWS STS quotas": 6,144 characters for a managed policy. The worker's names each route's
      # keys once and each bucket twice, with at most 25 characters around them; all the rest takes less than 1,500.
      condition = sum(concat(
        [for route in var.routes : length(route.bucket) + length(route.prefix) + 25],
        [for bucket in local.buckets : 2 * (length(bucket) + 23)],
        [for arn in var.bucket_kms_key_arns : length(arn) + 3],
      )) <= 4644
      error_message = "routes: more buckets, prefixes and bucket_kms_key_arns than one IAM policy holds (6144 characters); use another deployment (another name) for some."
    }
  }
}

resource "terraform_data" "bucket_is_free" {
  for_each = var.manage_bucket_notification ? local.buckets : []

  # Once for each bucket, when it is taken over: what others add later shows as drift in the plan.
  triggers_replace = [each.key]

  provisioner "local-exec" {
    command = "python3 '${path.module}/scripts/preflight.py' notifications"
    environment = {
      PREFLIGHT_BUCKET = each.key
      PREFLIGHT_OURS   = var.name
      PREFLIGHT_REGION = data.aws_s3_bucket.source[each.key].region
    }
  }
}

resource "terraform_data" "endpoint_is_missing" {
  count = local.makes_endpoint ? 1 : 0

  triggers_replace = [var.nat_route_table_id]

  provisioner "local-exec" {
    command = "python3 '${path.module}/scripts/preflight.py' endpoint"
    environment = {
      PREFLIGHT_ROUTE_TABLE = var.nat_route_table_id
      PREFLIGHT_REGION      = local.region
    }
  }
}
