# Two deployments of the module, each with queues, tasks and alarms of its own: a flood in one does not hold up the other.
# The first serves two buckets by routes.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }
}

provider "aws" {
  region = "eu-central-1"
}

variable "secret" {
  description = "NS_HOSTNAME, NS_USER and NS_KEY of the NetStorage upload account: TF_VAR_secret, or -var."
  type        = map(string)
  sensitive   = true
  ephemeral   = true
}

locals {
  deployments = {
    media = {
      max_tasks    = 20
      subnet_cidrs = ["172.31.240.0/24", "172.31.241.0/24"]
      routes = [
        { bucket = "my-video", cpcode = "123456", directory = "video", settle_s = 5 },
        { bucket = "my-images", cpcode = "123456", directory = "images", exclude = ["*.psd"] },
      ]
    }
    site = {
      max_tasks    = 2
      subnet_cidrs = ["172.31.242.0/24", "172.31.243.0/24"]
      routes       = [{ bucket = "my-site", cpcode = "654321" }]
    }
  }
}

module "s3nsync" {
  source   = "../../modules/s3nsync"
  for_each = local.deployments

  name               = "s3nsync-${each.key}"
  routes             = each.value.routes
  max_tasks          = each.value.max_tasks
  secret             = var.secret
  nat_route_table_id = "rtb-0123456789abcdef0"
  subnet_cidrs       = each.value.subnet_cidrs # made in one apply, both would choose the same free ranges

  # One endpoint serves the route table; the first deployment to be made takes it.
  create_s3_endpoint = each.key == "media"
}
